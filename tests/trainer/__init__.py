"""The trainer, checked by naive loops, hand-worked cases and whole command lines.

The faults of the earlier program, and the test that keeps each one out:

no <eos>, generation ran past the answer      test_targets_are_the_answer_and_eos,
                                              test_decoding_equals_a_naive_loop
prompt tokens compared                        test_only_the_answer_is_scored
untrained tags and characters                 test_errors_are_one_sentence_and_write_nothing,
                                              test_evaluate_ood.py
sort not in the curriculum                    test_sort_tags_belong_to_the_sort_stage
schedule from the first stage only            test_steps_and_schedule_cover_the_whole_stage_plan
patience during early stages                  test_until_every_task_is_in_the_latest_is_best
best weights were the last weights            test_best_model_holds_the_weights_of_its_epoch
task read at ":"                              test_formats.py; test_tasks.py
validation overlaps training                  test_validation_is_split_into_seen_and_unseen
dedup set smaller and harder                  test_generate.py
easy examples duplicated                      test_generate.py
one seed, no intervals                        test_run_folder_of_several_seeds
teacher-forced accuracy called accuracy       test_records_agree_with_naive_decoding
sequences cut at 128                          test_long_rows_are_never_cut
pickle.load of anything                       test_formats.py; tests/faults/test_hostile_files.py
"""

import pytest

pytest.register_assert_rewrite("trainer.helpers")  # so that its failures show values
