"""MLflow in memory, as its client sees it over a network; `test_contracts.py` holds it to the real one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

from tests.simulation import world as worlds
from tests.simulation.world import Service, called, here

MILLISECONDS = 1000


class TrackingServer:
    """What outlives a client: experiments, runs, logged models, versions with their aliases, and files by address."""

    def __init__(self) -> None:
        self.service = Service("registry", lambda: requests.ConnectionError("sim: connection reset"), sends_again=True)
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.models: dict[str, SimpleNamespace] = {}
        self.registered: dict[str, SimpleNamespace] = {}
        self.versions: dict[tuple[str, str], SimpleNamespace] = {}
        self.files: dict[str, bytes] = {}
        self.numbers = 0

    def number(self) -> int:
        """Another number each time."""
        self.numbers += 1
        return self.numbers


class Tracking:
    """As `mlflow.tracking.MlflowClient`, as far as the registry uses it."""

    def __init__(self, server: TrackingServer) -> None:
        self.server = server

    # experiments and runs

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        def look() -> SimpleNamespace | None:
            found = self.server.experiments.get(name)
            return None if found is None else SimpleNamespace(experiment_id=found)

        return self._call(f"get_experiment {name}", look, writes=False)

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        def create() -> str:
            if name in self.server.experiments:
                raise MlflowException(f"experiment {name} already exists", RESOURCE_ALREADY_EXISTS)
            return self.server.experiments.setdefault(name, str(self.server.number()))

        return self._call(f"create_experiment {name}", create)

    def create_run(self, experiment_id: str, run_name: str, tags: Mapping[str, str]) -> SimpleNamespace:
        def create() -> SimpleNamespace:
            run_id = f"run-{self.server.number()}"
            self.server.runs[run_id] = SimpleNamespace(
                info=SimpleNamespace(run_id=run_id, status="RUNNING"),
                data=SimpleNamespace(params={}, metrics={}, tags=dict(tags)),
            )
            return _copy_of_run(self.server.runs[run_id])

        return self._call(f"create_run {run_name}", create)

    def get_run(self, run_id: str) -> SimpleNamespace:
        return self._call(f"get_run {run_id}", lambda: _copy_of_run(self._run(run_id)), writes=False)

    def set_terminated(self, run_id: str, status: str = "FINISHED") -> None:
        self._call(f"set_terminated {run_id} {status}", lambda: setattr(self._run(run_id).info, "status", status))

    def delete_run(self, run_id: str) -> None:
        self._call(f"delete_run {run_id}", lambda: self._run(run_id))

    def log_param(self, run_id: str, key: str, value: str) -> None:
        self._call(f"log_param {run_id} {key}", lambda: self._log_params(run_id, {key: value}))

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        def log() -> None:
            self._log_params(run_id, {param.key: param.value for param in params})
            self._run(run_id).data.metrics.update({metric.key: metric.value for metric in metrics})

        self._call(f"log_batch {run_id}", log)

    def _run(self, run_id: str) -> SimpleNamespace:
        if run_id not in self.server.runs:
            raise MlflowException(f"run {run_id} does not exist", RESOURCE_DOES_NOT_EXIST)
        return self.server.runs[run_id]

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        logged = self._run(run_id).data.params
        for key, value in params.items():
            if logged.get(key, value) != value:
                raise MlflowException(f"{key} was logged before with another value", INVALID_PARAMETER_VALUE)
        logged.update(params)

    # files

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        self._run(run_id)
        self._upload(f"{run_id}/{artifact_path}" if artifact_path else run_id, Path(local_dir))

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[SimpleNamespace]:
        def look() -> list[SimpleNamespace]:
            start = f"{run_id}/{path}/" if path else f"{run_id}/"
            below = sorted({f[len(start) :].partition("/")[0] for f in self.server.files if f.startswith(start)})
            return [SimpleNamespace(path=f"{path}/{name}" if path else name) for name in below]

        return self._call(f"list_artifacts {run_id}/{path or ''}", look, writes=False)

    def download_artifacts(self, run_id: str, path: str, dst_path: str) -> str:
        return self.download(f"{run_id}/{path}", Path(dst_path), path)

    def download(self, address: str, folder: Path, name: str = "") -> str:
        """A file, or a folder with all that is in it; where it lies now, below `folder`."""

        def fetch() -> dict[str, bytes]:
            found = {f: data for f, data in self.server.files.items() if f == address or f.startswith(f"{address}/")}
            if not found:
                raise MlflowException(f"{address} does not exist", RESOURCE_DOES_NOT_EXIST)
            return found

        target = folder / name
        for file, data in self._call(f"download {address}", fetch, writes=False).items():
            place = target / file[len(address) + 1 :] if file != address else target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return str(target)

    def _upload(self, address: str, folder: Path) -> None:
        files = [(f"{address}/{f.relative_to(folder).as_posix()}", f) for f in sorted(folder.rglob("*")) if f.is_file()]
        held = [(place, file.read_bytes()) for place, file in files]

        def half() -> None:
            self.server.files.update(held[: len(held) // 2])

        several = half if len(held) > 1 else None
        self._call(f"upload {address} ({len(held)})", lambda: self.server.files.update(held), half=several)

    # logged models

    def create_logged_model(self, experiment_id: str, *, name: str, source_run_id: str, **_: Any) -> SimpleNamespace:
        def create() -> SimpleNamespace:
            model_id = f"m-{self.server.number()}"
            model = SimpleNamespace(model_id=model_id, artifact_location=f"models/{model_id}/artifacts")
            return self.server.models.setdefault(model_id, model)

        return self._call(f"create_logged_model {name}", create)

    def get_logged_model(self, model_id: str) -> SimpleNamespace:
        return self._call(f"get_logged_model {model_id}", lambda: self.server.models[model_id], writes=False)

    def log_outputs(self, run_id: str, models: Sequence[Any]) -> None:
        self._call(f"log_outputs {run_id}", lambda: self._run(run_id))

    def log_model_artifacts(self, model_id: str, local_dir: str) -> None:
        self._upload(self.server.models[model_id].artifact_location, Path(local_dir))

    def finalize_logged_model(self, model_id: str, status: str) -> None:
        self._call(f"finalize_logged_model {model_id}", lambda: None)

    # the registered model, its versions and aliases

    def create_registered_model(self, name: str, description: str = "") -> None:
        def create() -> None:
            if name in self.server.registered:
                raise MlflowException(f"{name} already exists", RESOURCE_ALREADY_EXISTS)
            self.server.registered[name] = SimpleNamespace(aliases={}, tags={})

        self._call(f"create_registered_model {name}", create)

    def get_registered_model(self, name: str) -> SimpleNamespace:
        def look() -> SimpleNamespace:
            found = self._registered(name)
            return SimpleNamespace(aliases=dict(found.aliases), tags=dict(found.tags))

        return self._call("get_registered_model", look, writes=False)

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self._call(f"set_registered_model_tag {key}", lambda: self._registered(name).tags.update({key: value}))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        def point() -> None:
            self._version(name, version)
            self._registered(name).aliases[alias] = version

        self._call(f"alias {alias} = {version}", point)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._call(f"no alias {alias}", lambda: self._registered(name).aliases.pop(alias, None))

    def create_model_version(
        self, name: str, source: str, *, run_id: str, tags: Mapping[str, str], model_id: str
    ) -> SimpleNamespace:
        def create() -> SimpleNamespace:
            self._registered(name)
            version = str(1 + sum(of == name for of, _ in self.server.versions))
            now = here().server_time().timestamp() if worlds.WORLD is not None else 0.0
            self.server.versions[name, version] = SimpleNamespace(
                version=version,
                run_id=run_id,
                source=source,
                tags=dict(tags),
                creation_timestamp=int(now * MILLISECONDS),
            )
            return _copy_of_version(self.server.versions[name, version])

        return self._call(f"create_model_version of {run_id}", create)

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        def look() -> SimpleNamespace:
            return _copy_of_version(self._version(name, version))

        return self._call(f"get_model_version {version}", look, writes=False)

    def search_model_versions(self, wanted: str, max_results: int) -> list[SimpleNamespace]:
        def look() -> list[SimpleNamespace]:
            return [_copy_of_version(v) for (name, _), v in self.server.versions.items() if wanted == f"name='{name}'"]

        return self._call("search_model_versions", look, writes=False)[:max_results]

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self._call(f"tag {version} {key}", lambda: self._version(name, version).tags.update({key: value}))

    def _registered(self, name: str) -> SimpleNamespace:
        if name not in self.server.registered:
            raise MlflowException(f"{name} is not registered", RESOURCE_DOES_NOT_EXIST)
        return self.server.registered[name]

    def _version(self, name: str, version: str) -> SimpleNamespace:
        if (name, version) not in self.server.versions:
            raise MlflowException(f"{name} has no version {version}", RESOURCE_DOES_NOT_EXIST)
        return self.server.versions[name, version]

    def _call(
        self, what: str, do: Callable[[], Any], *, writes: bool = True, half: Callable[[], object] | None = None
    ) -> Any:
        return called(self.server.service, what, do, writes=writes, half=half)


def _copy_of_run(run: SimpleNamespace) -> SimpleNamespace:
    data = SimpleNamespace(params=dict(run.data.params), metrics=dict(run.data.metrics), tags=dict(run.data.tags))
    return SimpleNamespace(info=SimpleNamespace(**vars(run.info)), data=data)


def _copy_of_version(version: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(version), "tags": dict(version.tags)})
