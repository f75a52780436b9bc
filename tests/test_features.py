"""Keeps the table of features and its tests together: each row that is built has a test that runs on every database."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.plugin import ONCE

BUILT = {*range(1, 79), *range(80, 96), 111, 112}

GATE, SETTLE, BODY = "tests.engine.test_gate", "tests.engine.test_settle", "tests.engine.test_body"
RETRY = "tests.engine.test_retry"
CASCADE, HOOKS, CANCEL = "tests.engine.test_cascade", "tests.engine.test_hooks", "tests.engine.test_cancel"
WORKERS, LOST, BACKOFF = "tests.engine.test_workers", "tests.engine.test_lost_workers", "tests.engine.test_backoff"
FINISH, TELEMETRY, ENDINGS = "tests.engine.test_finish", "tests.test_telemetry", "tests.races.test_endings"
WORKFLOW, RESULTS, SWEEP = "tests.test_workflow", "tests.test_results", "tests.sweep.test_sweep"
QUERIES, EVENTS = "tests.test_queries", "tests.test_events"
STATS = "tests.llm.test_stats"
PASSES, FORMS, RETENTION = "tests.sweep.test_passes", "tests.sweep.test_forms", "tests.sweep.test_retention"
CAPTURE, REDACTION = "tests.llm.test_capture", "tests.llm.test_redaction"

LLM_STEP, MODELS = "tests.llm.test_llm_step", "tests.llm.test_multi_model"
CALLS, RECORDING = "tests.llm.test_calls", "tests.llm.test_recording"

FEATURES: dict[int, list[str]] = {
    1: [f"{WORKFLOW}.test_diamond_by_chained_add_builds_and_insert_writes_four_steps"],
    2: [f"{WORKFLOW}.test_run_without_an_id_is_given_a_uuid4", f"{WORKFLOW}.test_given_id_is_kept"],
    3: [f"{WORKFLOW}.test_label_is_in_every_event_of_the_run"],
    4: [f"{WORKFLOW}.test_dependencies_by_str_and_by_enum_member_are_the_same_step"],
    5: [f"{WORKFLOW}.test_circle_is_refused_naming_both_steps_and_writes_nothing"],
    6: [f"{WORKFLOW}.test_unknown_dependency_is_refused_naming_step_and_dependency_and_writes_nothing"],
    7: [
        f"{WORKFLOW}.test_duplicate_name_is_refused_with_an_error_of_its_own",
        f"{WORKFLOW}.test_self_dependency_is_refused_with_an_error_of_its_own",
        f"{WORKFLOW}.test_empty_workflow_is_refused_with_an_error_of_its_own",
    ],
    8: [f"{WORKFLOW}.test_validate_gives_the_verdict_of_insert_without_a_query"],
    9: [f"{WORKFLOW}.test_insert_raises_one_error_that_lists_every_problem_and_problems_lists_them_without_raising"],
    10: [f"{WORKFLOW}.test_error_while_writing_the_last_row_leaves_nothing"],
    11: [f"{WORKFLOW}.test_insert_in_an_outer_transaction_that_rolls_back_enqueues_nothing"],
    12: [f"{WORKFLOW}.test_only_steps_without_dependencies_are_ready_and_rung_for_at_insert"],
    13: [f"{WORKERS}.test_over_200_random_graphs_no_body_starts_before_its_dependencies_completed"],
    14: [f"{WORKERS}.test_parallel_branches_overlap_in_time_on_two_workers"],
    15: [f"{GATE}.test_delivering_a_waiting_step_early_does_not_run_its_body"],
    16: [f"{GATE}.test_fifty_early_deliveries_leave_attempt_version_and_fence_unchanged"],
    17: [f"{LOST}.test_step_starts_within_a_second_of_its_last_dependency_without_a_sweep"],
    18: [f"{LOST}.test_with_every_enqueue_after_a_completion_lost_the_sweep_brings_the_workflow_to_its_end"],
    19: [
        f"{SETTLE}.test_step_is_readied_once_by_the_last_of_its_dependencies",
        f"{WORKERS}.test_join_of_siblings_that_complete_together_is_run_once",
    ],
    20: [f"{GATE}.test_step_with_a_time_ahead_does_not_start_when_its_dependency_completes"],
    21: [f"{BODY}.test_body_that_returns_none_completes_the_step_without_a_result"],
    22: [f"{BODY}.test_body_that_returns_a_value_completes_the_step_and_a_dependent_reads_it"],
    23: [f"{BODY}.test_body_that_fails_twice_completes_in_its_third_attempt"],
    24: [
        f"{BODY}.test_step_whose_attempts_are_exhausted_is_discarded",
        f"{WORKERS}.test_step_that_fails_is_tried_again_after_its_backoff_and_discarded_in_the_end",
    ],
    25: [
        f"{BODY}.test_snoozed_step_runs_again_not_before_its_time_and_keeps_its_attempt",
        f"{WORKERS}.test_snoozed_step_runs_again_not_before_its_time_on_real_workers",
    ],
    26: [f"{BODY}.test_body_that_discards_is_not_retried_and_its_reason_is_kept"],
    27: [f"{BODY}.test_body_that_raises_makes_the_step_retryable_with_the_message_in_error"],
    28: [
        f"{LOST}.test_step_whose_worker_was_killed_in_its_body_is_retried_and_the_workflow_settles",
        f"{LOST}.test_step_whose_worker_was_killed_in_its_last_attempt_is_discarded_and_the_workflow_settles",
    ],
    29: [f"{WORKERS}.test_body_over_its_timeout_is_a_failed_attempt_and_a_worker_takes_the_next_step"],
    30: [f"{WORKFLOW}.test_queue_priority_and_max_attempts_given_at_add_beat_the_decorator"],
    31: [
        f"{BACKOFF}.test_default_backoff_of_an_attempt_lies_between_half_and_the_whole_of_its_power_of_two",
        f"{BACKOFF}.test_backoff_may_be_a_number_a_list_whose_last_repeats_or_a_callable",
    ],
    32: [f"{BODY}.test_storable_value_comes_through_as_json_gives_it_back"],
    33: [f"{RESULTS}.test_each_way_of_having_no_result_is_an_error_of_its_own_under_one_base"],
    34: [f"{RESULTS}.test_all_results_of_three_dependencies_of_which_one_has_none_are_two"],
    35: [
        f"{BODY}.test_own_result_raises_before_there_is_one",
        f"{RESULTS}.test_own_result_is_had_once_the_step_has_completed",
    ],
    36: [
        f"{BODY}.test_unstorable_result_discards_the_step_at_once_with_a_clear_error",
        f"{BODY}.test_unstorable_result_is_retried_where_retry_on_names_its_error",
    ],
    37: [f"{LOST}.test_worker_killed_between_store_and_acknowledgement_has_run_the_body_once"],
    38: [f"{GATE}.test_settled_step_is_run_and_changed_by_no_bell_claim_cancel_or_sweep"],
    39: [f"{SETTLE}.test_result_of_a_stale_attempt_is_dropped"],
    40: [f"{CASCADE}.test_dependent_of_a_step_that_ended_badly_is_cancelled_and_the_reason_names_it"],
    41: [f"{CASCADE}.test_dependent_of_a_step_that_ended_badly_is_cancelled_and_the_reason_names_it"],
    42: [f"{CASCADE}.test_nine_steps_behind_a_discarded_root_are_cancelled"],
    43: [f"{CASCADE}.test_cascade_is_done_by_the_settle_itself_and_needs_neither_bell_nor_sweep"],
    44: [
        f"{CASCADE}.test_dependent_that_ignores_how_its_dependency_ended_runs",
        f"{CASCADE}.test_reading_a_dependency_that_ended_badly_raises_no_result_error",
    ],
    45: [f"{CASCADE}.test_flag_of_the_step_beats_that_of_the_workflow"],
    46: [f"{CASCADE}.test_ignoring_one_ending_does_not_excuse_the_other"],
    47: [
        f"{HOOKS}.test_hook_is_called_once_with_the_reason_when_a_dependency_cancels_the_step",
        f"{HOOKS}.test_error_in_a_hook_stops_neither_the_cascade_nor_other_hooks",
    ],
    48: [f"{LOST}.test_step_of_a_vanished_worker_is_retried_within_the_lease_and_one_sweep"],
    49: [f"{LOST}.test_slow_step_of_three_leases_is_not_taken_from_its_live_worker"],
    50: [
        f"{SWEEP}.test_waiter_whose_dependency_s_row_is_gone_is_cancelled_also_with_ignore_flags",
        f"{GATE}.test_ready_step_whose_dependency_s_row_is_gone_is_cancelled_and_not_run",
    ],
    51: [f"{WORKERS}.test_deleting_all_rows_of_django_q2_in_the_middle_of_a_run_does_not_matter"],
    52: [
        f"{TELEMETRY}.test_recorded_sequence_of_a_retrying_workflow_is_the_expected_list",
        f"{EVENTS}.test_events_of_a_retrying_workflow_follow_each_other_as_documented",
    ],
    53: [
        f"{TELEMETRY}.test_steps_are_announced_with_exactly_these_keys",
        f"{TELEMETRY}.test_every_value_of_every_step_event_has_its_type_and_is_json",
        f"{EVENTS}.test_messages_have_exactly_the_documented_keys",
    ],
    54: [
        f"{ENDINGS}.test_run_whose_last_two_steps_settle_at_once_is_announced_once",
        f"{ENDINGS}.test_run_is_announced_once_where_the_sibling_of_a_cascade_completes_last",
    ],
    55: [
        f"{TELEMETRY}.test_end_is_announced_with_exactly_these_keys",
        f"{FINISH}.test_run_with_one_failed_and_two_cascaded_steps_has_failed_and_names_the_three",
        f"{CANCEL}.test_cancel_settles_everything_unsettled_and_finishes_the_run_once",
        f"{EVENTS}.test_cancelled_run_is_told_with_its_outcome",
    ],
    56: [
        f"{CASCADE}.test_failure_that_every_dependent_ignored_does_not_fail_the_run_but_is_named",
        f"{CASCADE}.test_failed_step_without_dependents_fails_the_run",
    ],
    57: [f"{SWEEP}.test_ending_that_nobody_noted_is_noted_and_announced_once"],
    58: [f"{TELEMETRY}.test_run_whose_last_step_was_killed_is_announced_as_failed_by_the_next_sweep"],
    59: [
        f"{EVENTS}.test_consumer_on_either_group_receives_each_event_once_in_order",
        f"{EVENTS}.test_real_workers_tell_every_step_and_the_end_as_good_as_always_last",
    ],
    60: [
        f"{EVENTS}.test_after_leaving_nothing_arrives",
        f"{EVENTS}.test_what_waits_for_a_consumer_that_leaves_no_longer_arrives",
        f"{EVENTS}.test_consumer_of_all_that_also_follows_one_run_gets_nothing_twice",
        f"{EVENTS}.test_consumer_that_ends_has_left_its_groups",
    ],
    61: [
        f"{EVENTS}.test_without_a_layer_nothing_is_connected_and_signals_fire_without_a_warning",
        f"{EVENTS}.test_without_channels_installed_a_workflow_completes_and_nothing_is_said",
    ],
    62: [
        f"{EVENTS}.test_layer_that_raises_harms_no_workflow_and_is_told_once",
        f"{EVENTS}.test_remote_layer_that_fails_harms_no_workflow_and_is_used_again",
        f"{EVENTS}.test_layer_that_hangs_is_left_alone_for_a_while",
    ],
    63: [f"{EVENTS}.test_receiver_that_reads_the_database_sees_the_announced_state"],
    64: [
        f"{TELEMETRY}.test_recorded_sequence_of_a_retrying_workflow_is_the_expected_list",
        "tests.test_docs.test_reference_names_the_keys_of_each_signal_and_no_others",
    ],
    65: [f"{TELEMETRY}.test_failure_that_nobody_announced_is_announced_by_the_first_of_two_sweeps"],
    66: [
        f"{PASSES}.test_pass_is_announced_when_it_begins_and_when_it_ends_with_its_duration_and_its_report",
        f"{PASSES}.test_part_that_raises_is_announced_the_others_run_and_so_does_the_next_sweep",
    ],
    67: [
        f"{PASSES}.test_steps_rescued_names_each_step_that_was_taken_and_no_other",
        f"{RETENTION}.test_rows_pruned_says_how_many_rows_of_which_tables_went",
    ],
    68: [f"{TELEMETRY}.test_one_failure_is_one_line_one_rescue_another_and_after_detach_there_is_none"],
    69: [
        f"{TELEMETRY}.test_receiver_that_raises_harms_neither_the_run_nor_other_receivers",
        f"{TELEMETRY}.test_receiver_that_raises_harms_neither_a_sweep_nor_other_receivers",
    ],
    70: [
        f"{FORMS}.test_command_makes_a_pass",
        f"{FORMS}.test_resident_form_makes_pass_after_pass",
        f"{FORMS}.test_schedule_of_django_q2_makes_its_workers_sweep",
        f"{SWEEP}.test_schedule_is_kept_once_as_the_setting_says",
    ],
    71: [f"{SWEEP}.test_waiter_whose_dependency_s_row_is_gone_is_cancelled_also_with_ignore_flags"],
    72: [f"{SWEEP}.test_ready_step_whose_bell_was_lost_is_rung_for_once_it_has_waited"],
    73: [f"{SWEEP}.test_of_two_concurrent_sweeps_one_works_and_the_other_is_busy"],
    74: [
        f"{RETENTION}.test_nothing_is_deleted_unless_it_is_asked_for",
        f"{RETENTION}.test_at_most_the_limit_of_rows_of_a_table_goes_in_a_pass_the_oldest_first_and_never_a_part_of_a_run",
    ],
    75: [f"{RETENTION}.test_running_run_with_old_completed_steps_keeps_all_its_rows"],
    76: [f"{RETENTION}.test_old_debug_logs_of_a_live_run_go_and_newer_stay"],
    77: [f"{QUERIES}.test_steps_of_a_run_have_the_keys_of_the_step_event_in_topological_order"],
    78: [
        f"{QUERIES}.test_list_of_runs_counts_their_steps_and_filters_by_state_in_constant_queries",
        f"{QUERIES}.test_pages_hold_every_run_once_newest_first",
    ],
    80: [
        f"{LLM_STEP}.test_queue_is_the_setting_s_where_such_a_cluster_is_configured_else_default",
        f"{LLM_STEP}.test_defaults_are_eight_attempts_a_backoff_with_jitter_that_knows_retry_after_and_no_timeout",
        f"{LLM_STEP}.test_next_attempt_is_due_when_the_server_said",
        f"{LLM_STEP}.test_what_is_given_where_it_is_added_beats_the_defaults",
    ],
    81: [
        f"{RECORDING}.test_returned_usage_is_recorded_once_and_no_dependent_sees_it",
        f"{CALLS}.test_returned_usage_is_taken_out_and_recorded_once",
    ],
    82: [f"{RECORDING}.test_two_calls_in_a_step_give_two_rows"],
    83: [
        f"{CALLS}.test_stored_answer_is_given_again_and_nothing_is_paid_twice",
        f"{CALLS}.test_usage_with_a_key_is_counted_once_and_without_one_each_time",
        f"{CALLS}.test_returned_usage_is_taken_out_and_recorded_once",
        "tests.faults.test_paid_calls.test_paid_answer_is_never_paid_again_wherever_a_worker_is_killed",
    ],
    84: [
        f"{STATS}.test_totals_of_a_run_are_the_sums_that_a_hand_computes",
        f"{STATS}.test_cost_by_model_by_step_and_by_workflow_add_up_what_belongs_together",
        f"{STATS}.test_calls_of_a_run_are_listed_in_the_order_of_their_times",
        f"{STATS}.test_window_begins_with_its_start_and_ends_before_its_end",
    ],
    85: [
        "tests.llm.test_calls.test_class_of_the_project_prices_calls_and_totals_say_what_it_does_not_know",
        "tests.llm.test_pricing.test_class_of_the_project_is_asked_and_named_as_the_source",
        "tests.llm.test_pricing.test_unknown_model_has_no_price_instead_of_the_price_zero",
    ],
    86: [
        "tests.llm.test_pricing.test_known_models_are_priced_by_genai_prices",
        "tests.llm.test_pricing.test_model_of_the_table_is_priced_in_exact_decimals_with_the_unit_prices_and_their_source",
        "tests.llm.test_pricing.test_dated_and_prefixed_names_find_the_model",
    ],
    87: [
        f"{CAPTURE}.test_call_is_kept_with_request_response_results_of_dependencies_model_and_duration",
        f"{CAPTURE}.test_row_has_request_response_results_of_dependencies_model_and_duration",
        f"{CAPTURE}.test_what_the_function_of_a_call_logs_by_hand_is_in_the_row_of_the_call",
    ],
    88: [
        f"{CAPTURE}.test_nothing_is_kept_unless_it_is_asked_for",
        f"{CAPTURE}.test_run_with_debug_is_kept_and_no_other_run",
        f"{CAPTURE}.test_call_keeps_nothing_unless_it_is_asked_for",
    ],
    89: [
        f"{REDACTION}.test_value_under_a_configured_key_is_removed",
        f"{REDACTION}.test_secret_never_reaches_the_table_whatever_the_shape",
    ],
    90: [f"{MODELS}.test_listed_step_gets_its_model_and_an_unlisted_one_is_as_it_was"],
    91: [f"{MODELS}.test_model_for_is_what_was_chosen_else_the_default"],
    92: [
        f"{MODELS}.test_four_models_make_five_steps_and_the_synthesis_gets_four_results_by_their_full_names",
        f"{MODELS}.test_base_models_and_dependencies_may_be_enum_members_and_iterators",
    ],
    93: [
        f"{MODELS}.test_four_models_make_five_steps_and_the_synthesis_gets_four_results_by_their_full_names",
        f"{MODELS}.test_model_s_name_may_have_any_characters",
    ],
    94: [f"{MODELS}.test_two_dated_versions_of_a_model_are_two_steps_with_a_result_each"],
    95: ["tests.test_migrations.test_migrations_go_from_nothing_to_the_newest_and_back_to_nothing"],
    111: [
        f"{CANCEL}.test_cancel_settles_everything_unsettled_and_finishes_the_run_once",
        f"{WORKERS}.test_running_body_is_told_of_a_cancel_and_the_run_finishes_once",
    ],
    112: [
        f"{RETRY}.test_retry_runs_the_failed_part_again_and_no_step_that_completed_before_it",
        f"{RETRY}.test_attempts_of_a_step_that_is_retried_start_at_1_and_its_log_goes_on",
        f"{RETRY}.test_second_round_has_an_ending_of_its_own_and_a_second_event_is_sent",
        f"{RETRY}.test_retry_from_a_step_runs_it_and_everything_after_it_also_where_nothing_failed",
        f"{RETRY}.test_second_round_runs_on_real_workers_and_each_round_is_announced_once",
        "tests.test_random_graphs.test_30_random_graphs_retried_twice_come_to_what_the_rules_say",
    ],
}
"""For each row of the table of features, the tests that prove it."""


def test_every_row_that_is_built_has_a_test():
    assert set(FEATURES) == BUILT
    assert all(FEATURES.values())


@pytest.mark.parametrize("row", sorted(FEATURES))
def test_tests_of_a_row_are_there_and_run_on_every_database(row):
    for path in FEATURES[row]:
        module_name, _, name = path.rpartition(".")
        module = import_module(module_name)
        marks = {mark.name for mark in _marks(module, getattr(module, name, None))}

        assert callable(getattr(module, name, None)), f"{path} is not there"
        assert marks.isdisjoint({"postgres", "sqlite", "skip", "skipif", "xfail"}), f"{path} is left out somewhere"


@pytest.mark.parametrize("row", sorted(FEATURES))
def test_row_is_proven_by_more_than_what_runs_on_one_database_alone(row):
    once = tuple(each.removesuffix(".py") for each in ONCE)

    assert not all(path.replace(".", "/").startswith(once) for path in FEATURES[row])


def _marks(module: Any, test: Any) -> Iterator[pytest.Mark]:
    of_module = getattr(module, "pytestmark", [])
    yield from (each.mark for each in (of_module if isinstance(of_module, list) else [of_module]))
    yield from getattr(test, "pytestmark", [])
