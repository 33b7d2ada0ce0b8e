"""The data path: input files as ranges of lines, records as chains of segments, the ledger.

In a job's order: ``places`` and ``object_store`` (where things lie), ``inputs`` and ``ranges``
(what there is to do), ``ledger`` (who does it, what is done), ``reader`` (lines in), ``segments``
(records out), ``done_ranges`` and ``compaction`` (what a retry does), ``earlier_results`` (what
another place gives), ``manifest``, ``progress`` and ``results`` (what came of it). Knows nothing of
prompts, tokens or the engine.
"""
