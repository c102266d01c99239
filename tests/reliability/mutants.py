"""Mechanisms taken out of the sources one by one, and the test of tests/FAULTS.md that must fail then."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """What is lost without `old`, in place of which a file has `new`; `row` of tests/FAULTS.md is about it."""

    row: int
    lost: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        5,
        "weights that are no numbers are named",
        "pipeline/model/weights.py",
        "if not torch.isfinite(value).all():",
        "if False:",
        "model/test_checkpoint.py::test_fault_05_unusual_values_are_named_and_run_in_fp32",
    ),
    Mutant(
        14,
        "a score equal to the threshold is kept",
        "plugins/token_compact/operator.py",
        "passed = score >= threshold",
        "passed = score > threshold",
        "model/test_compaction.py::test_fault_14_a_score_equal_to_the_threshold_is_kept_and_the_next_float_below_is_not",
    ),
    Mutant(
        10,
        "rows of a mask with holes are packed",
        "pipeline/model/transformer.py",
        "index = order.view([1]",
        "index = order.flip(-1).view([1]",
        "model/test_transformer.py::test_fault_10_left_padding_and_holes_equal_the_packed_input",
    ),
    Mutant(
        13,
        "token ids are checked against the vocabulary",
        "pipeline/model/transformer.py",
        "if low < 0 or high >= end:",
        "if False:",
        "model/test_transformer.py::test_fault_13_token_ids_out_of_the_vocabulary_are_refused",
    ),
    Mutant(
        15,
        "hard links are refused",
        "engines/files.py",
        "if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:",
        "if stat.S_ISREG(state.st_mode):",
        "engines/test_artifact.py::test_only_regular_files_of_one_name_are_read",
    ),
    Mutant(
        16,
        "functions that call each other are bounded",
        "engines/backends/stage_graph.py",
        "    _check_depth(path, model)\n",
        "",
        "engines/test_stage_graph.py::test_functions_that_call_each_other",
    ),
    Mutant(
        16,
        "operators of a newer opset are refused",
        "engines/backends/stage_graph.py",
        "entry.version > newest",
        "False",
        "engines/test_stage_graph.py::test_operators_from_the_future",
    ),
    Mutant(
        22,
        "digests of files are compared",
        "engines/artifact.py",
        "sha256_of(file) if relative in used else expected",
        "expected",
        "engines/test_artifact.py::test_missing_and_changed_files_are_listed_together",
    ),
    Mutant(
        23,
        "the seal of a manifest is compared",
        "engines/manifest_file.py",
        "if verify and seal != expected:",
        "if False:",
        "engines/test_artifact.py::test_every_byte_of_a_manifest_counts",
    ),
    Mutant(
        23,
        "paths of a manifest stay inside",
        "engines/files.py",
        'or ".." in pure.parts ',
        "",
        "engines/test_artifact.py::test_a_path_that_leaves_the_directory",
    ),
    Mutant(
        24,
        "content is flushed before it gets its name",
        "engines/writing.py",
        "        sync(fresh)\n",
        "",
        "engines/test_writing.py::test_nothing_appears_before_it_is_on_the_disk",
    ),
    Mutant(
        24,
        "a published artifact is flushed before it gets its name",
        "pipeline/builder/publish.py",
        "            sync(path)\n",
        "            path.exists()\n",
        "builder/test_publish.py::test_all_of_a_build_is_on_the_disk_before_it_appears",
    ),
    Mutant(
        25,
        "a writer holds the lock",
        "engines/writing.py",
        "        lock.acquire(timeout=timeout)\n",
        "        pass\n",
        "engines/test_writing.py::test_locks_exclude_each_other_although_they_are_removed",
    ),
    Mutant(
        26,
        "too few calibration texts are refused",
        "calib/texts.py",
        "if len(samples) < FEWEST:",
        "if False:",
        "calib/test_texts.py::test_too_few_texts_are_refused",
    ),
    Mutant(
        30,
        "calls take turns at a profile's buffers",
        "engines/stage_runner.py",
        "        with self._turn:\n            profile = self._profile(unit, bucket)",
        "        if True:\n            profile = self._profile(unit, bucket)",
        "engines/test_runner.py::test_calls_take_turns_at_a_profile",
    ),
    Mutant(
        33,
        "the tokenizer is the checkpoint's",
        "pipeline/gates/provenance.py",
        "if not filecmp.cmp(folder / TOKENIZER_NAME, origin.tokenizer, shallow=False):",
        "if False:",
        "gates/test_provenance.py::test_an_edit_with_renewed_digests_is_found_and_named",
    ),
    Mutant(
        34,
        "what is read is what was checked",
        "engines/files.py",
        "if digest is not None and (found := hashlib.sha256(content[:size].data).hexdigest()) != digest:",
        "if (found := digest) is None:",
        "engines/test_artifact.py::test_content_is_what_was_checked",
    ),
    Mutant(
        35,
        "a directory with somebody's files is not replaced",
        "pipeline/builder/publish.py",
        "    if strange:\n",
        "    if False:\n",
        "builder/test_publish.py::test_somebodys_file_in_an_artifact_keeps_it_from_being_replaced",
    ),
    Mutant(
        36,
        "a model that skips is no baseline",
        "pipeline/builder/dense.py",
        'if method != "dense":',
        "if False:",
        "builder/test_dense.py::test_a_model_that_skips_is_no_dense_one",
    ),
    Mutant(
        37,
        "telemetry is off before openvino is imported",
        "engines/quiet.py",
        "    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]\n",
        "    importlib.import_module(_TELEMETRY)\n",
        "engines/test_quiet.py::test_nothing_calls_home_and_nothing_is_written_at_home",
    ),
)
