"""Steps that call language models: what is paid for is kept, counted and priced."""

from __future__ import annotations

from baton.llm.calls import Call, acall, astream, call, stream
from baton.llm.multi_model import configure, fan_out_models, model_for, results_by_model
from baton.llm.recording import record_usage
from baton.llm.step import llm_step

__all__ = [
    "Call",
    "acall",
    "astream",
    "call",
    "configure",
    "fan_out_models",
    "llm_step",
    "model_for",
    "record_usage",
    "results_by_model",
    "stream",
]
