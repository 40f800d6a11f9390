"""Examples that the API's description shows, and how they stand in it."""

from collections.abc import Mapping
from typing import Any

SENSORS = 3  # in an example; a real wafer has as many as the model
READINGS = [3030.93, 2564.0, None]
NAMES = [f"Sensor-{number}" for number in range(1, SENSORS + 1)]
ONE_CSV = "Wafer,Sensor-1,Sensor-2,Sensor-3\nWafer-801,3030.93,2564,\n"

_ROW = {"type": "array", "items": {"type": ["number", "null"]}}
_ROWS = {"type": "array", "items": {"anyOf": [_ROW, {"type": "object"}]}, "minItems": 1, "maxItems": 10_000}
_WAFER = {
    "type": "object",
    "required": ["readings"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": ["string", "null"]},
        "order": {"type": ["integer", "null"]},
        "readings": {"anyOf": [_ROW, {"type": "object"}]},
    },
}
_WAFERS = {"type": "array", "items": _WAFER, "minItems": 1, "maxItems": 10_000}
_SPLIT = {"type": "object", "properties": {"columns": {"type": "array", "items": {"type": "string"}}, "data": _ROWS}}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "enum": ["FP64", "FP32"]},
        "data": {"type": "array"},
    },
}

SCORE: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["wafers"],
            "additionalProperties": False,
            "properties": {"wafers": _WAFERS},
        },
        "example": {"wafers": [{"id": "Wafer-801", "order": 801, "readings": READINGS}]},
    },
    "text/csv": {"schema": {"type": "string"}, "example": ONE_CSV},
}
SCORED: dict[str, Any] = {
    "version": 3,
    "wafers": [
        {
            "id": "Wafer-801",
            "verdict": 1,
            "probability": 0.31,
            "cluster": 0,
            "p_value": 0.42,
            "unknown": False,
            "why": "",
            "threshold": 0.18,
            "reasons": [{"rank": 1, "sensor": "Sensor-60", "direction": "high", "percentile": 99.1, "strength": 0.4}],
        }
    ],
}
INVOCATIONS: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "dataframe_split": _SPLIT,
                "dataframe_records": _ROWS,
                "instances": _ROWS,
                "inputs": {"anyOf": [_ROWS, {"type": "object"}]},
                "params": {"type": "object"},
            },
        },
        "example": {"dataframe_split": {"columns": NAMES, "data": [READINGS]}},
    },
    "text/csv": {
        "schema": {"type": "string"},
        "example": ONE_CSV.replace("Wafer,", "", 1).replace("Wafer-801,", "", 1),
    },
}
INFER: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": "string"},
                "inputs": {"type": "array", "items": _TENSOR},
                "outputs": {"type": "array"},
            },
        },
        "example": {"inputs": [{"name": "readings", "shape": [1, SENSORS], "datatype": "FP64", "data": [READINGS]}]},
    }
}
READY = {"ready": True}
MODEL = {"name": "wafer", "versions": ["3"], "platform": "wafer", "inputs": [], "outputs": []}
BATCH: dict[str, Any] = {"text/csv": {"schema": {"type": "string", "format": "binary"}, "example": ONE_CSV}}
LABELS: dict[str, Any] = {
    "text/csv": {"schema": {"type": "string"}, "example": "Wafer,Good/Bad\nWafer-801,1\nWafer-802,-1\n"},
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["labels"],
            "additionalProperties": False,
            "properties": {"labels": {"type": "object", "additionalProperties": {"type": "integer", "enum": [-1, 1]}}},
        },
        "example": {"labels": {"Wafer-801": 1, "Wafer-802": -1}},
    },
}


def body(content: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request, as the description has it."""
    return {"requestBody": {"required": True, "content": dict(content)}}


def json_answer(example: Any, status: int = 200, told: str = "As asked for") -> dict[int | str, dict[str, Any]]:
    """An answer in JSON, as the description has it."""
    schema = {"type": "array" if isinstance(example, list) else "object"}
    return {status: {"description": told, "content": {"application/json": {"schema": schema, "example": example}}}}
