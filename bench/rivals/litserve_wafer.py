"""LitServe: `python litserve_wafer.py --port PORT`, up to 16 requests a pass, which all bring as many wafers."""

import argparse
import os
from pathlib import Path
from typing import Any

import litserve
import numpy as np

from wafer.scoring.bundle import Bundle
from wafer.scoring.judge import judge

COLUMNS = ["verdict", "probability", "cluster", "unknown"]


class Wafer(litserve.LitAPI):
    """Scores wafers with the version in the folder that WAFER_BUNDLE names."""

    def setup(self, device: str) -> None:
        """Load the version."""
        self.bundle = Bundle.load(Path(os.environ["WAFER_BUNDLE"]))

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """The readings of a request."""
        return np.array(request["readings"], dtype=np.float64)

    def predict(self, batch: np.ndarray) -> list[list[dict[str, Any]]]:
        """Rows for the wafers of each request of a batch, shape (requests, wafers, sensors)."""
        requests, wafers, sensors = batch.shape
        said = judge(self.bundle, batch.reshape(-1, sensors), apart=True).wafers[COLUMNS]
        rows = said.astype({"verdict": float}).to_dict("records")
        return [rows[wafers * number : wafers * (number + 1)] for number in range(requests)]

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        """A row for each wafer."""
        return {"wafers": output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    server = litserve.LitServer(Wafer(max_batch_size=16), accelerator="cpu")
    server.run(host="127.0.0.1", port=parser.parse_args().port, generate_client_file=False, log_level="warning")
