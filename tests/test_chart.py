"""The chart renders, and what it gives is valid and safe, with every combination of the values that switch.

A template is rendered with each combination of the switches that it, or what it includes, reads: the others
cannot change what it gives. Nothing here asks a cluster or the network.
"""

from __future__ import annotations

import itertools
import json
import re
import runpy
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from platform_db import errors
from platform_db.cli import main
from platform_db.settings.variables import Settings
from tests.test_documented_code import BLOCKS
from tests.test_packaging import ROOT

helm = pytest.importorskip("helm_python", reason="helm-python-sdk, of the extra dev, is not installed")
kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")
yaml = pytest.importorskip("yaml")

CHART = ROOT / "deploy" / "helm" / "platform-db"
TEMPLATES = sorted(path.name for path in (CHART / "templates").glob("*.yaml"))
KUBERNETES = ("1.29", "1.37")  # the oldest that the chart takes, and the newest with schemas here
CUSTOM_KINDS = {
    "ServiceMonitor",
    "PrometheusRule",
}  # of the Prometheus operator; their schemas are not Kubernetes'
ALL_KEYS = {
    "MIGRATION_URI": "owner",
    "SECRET_KEY": "key",
    "AUDIT_SIGNING_KEY": "seal",
    "PASSWORD": "password",
}

Document = Mapping[str, Any]

SWITCHES: dict[str, list[Any]] = {
    "secret.keys": [{}, ALL_KEYS],
    "workspaces.existingClaim": ["", "workspaces"],
    "migration.mode": ["job", "hook", "initContainer", "none"],
    "migration.phase": ["pre", "all"],
    "migration.roles.create": [False, True],
    "migration.roles.grant": [[], [{"login": "api"}, {"login": "reports", "role": "readonly"}]],
    "cronJobDefaults.enabled": [True, False],
    "cronJobDefaults.suspend": [False, True],
    "cronJobs.disk-usage.shards": [1, 4],
    "metrics.enabled": [True, False],
    "metrics.operator": [False, True],
    "metrics.dashboard": [False, True],
    "networkPolicy.enabled": [True, False],
    "pgbouncer.enabled": [False, True],
    "pgbouncer.replicas": [1, 2],
}
# What else a pod may have.
EVERYTHING = {
    "image": {"digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"STATEMENT_TIMEOUT": 30000, "POOL_TIMEOUT": 2.5, "CONNECTION_OPTIONS": True},
    "metrics": {"labels": {"release": "prometheus"}},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]},
    "pgbouncer": {"tls": "verify-full", "tlsCaKey": "authority"},
    "pod": {
        "supplementalGroups": [100],
        "annotations": {"example.org/team": "data"},
        "labels": {"team": "data"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "jobs", "operator": "Exists"}],
        "priorityClassName": "batch",
    },
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_combination_is_valid_and_safe(template: str, tmp_path: Path) -> None:
    chart = load(tmp_path, template)
    read = values_read(template)
    switches = {name: options for name, options in SWITCHES.items() if any(touches(name, v) for v in read)}

    texts = {text for values in combinations(switches) for text in render(chart, values)}

    assert texts
    for document in documents(texts):  # each text once, however many combinations give it
        check(document)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_objects_have_names_of_their_own(values: dict[str, Any], tmp_path: Path) -> None:
    chart = load(tmp_path, *TEMPLATES)
    pooled = merged(values, assigned({name: options[-1] for name, options in SWITCHES.items()}))

    for given in (values, pooled):
        found = list(documents(render(chart, given)))
        names = [(document["kind"], document["metadata"]["name"]) for document in found]

        assert len(names) == len(set(names))
        for document in found:
            check(document)


def test_the_schema_takes_every_switch() -> None:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(EVERYTHING)
        for switch, options in SWITCHES.items():
            for option in options:
                chart.validate_schema(assigned({switch: option}))


def test_every_boolean_of_the_chart_is_a_switch() -> None:
    booleans = {path for path, part in leaves(read_schema()) if part.get("type") == "boolean"}

    assert booleans <= set(SWITCHES)


def test_lint_has_nothing_to_say() -> None:
    report = helm.lint(CHART, strict=True)

    assert report["errors"] == []
    assert [m["error"] for m in report["messages"] if "icon" not in m["error"]] == []


def test_the_chart_is_of_this_release() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")

    assert f'version="{helm.Chart.load(CHART).metadata["appVersion"]}"' in setup


def test_pods_run_as_the_image_does() -> None:
    [user] = re.findall(r"^USER (\d+:\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    pod = helm.Chart.load(CHART).values["pod"]

    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"migration": {"mode": "jobs"}}, "at '/migration/mode': value must be one of 'job', 'hook'"),
        ({"metrics": {"port": "9187"}}, "at '/metrics/port': got string, want integer"),
        ({"metric": {}}, "at '': additional properties 'metric' not allowed"),
        ({"cronJobs": {"seal": {"schedul": ""}}}, "at '/cronJobs/seal': additional properties 'schedul'"),
        (
            {"cronJobs": {"seal": {"schedule": "hourly"}}},
            "at '/cronJobs/seal/schedule': 'hourly' does not match",
        ),
        ({"cronJobs": {"mine": {"args": ["db"]}}}, "at '/cronJobs/mine': missing property 'schedule'"),
        ({"pod": {"runAsUser": 0}}, "at '/pod/runAsUser': minimum: got 0, want 1"),
        ({"settings": {"SECRET_KEY": "x"}}, "at '/settings/SECRET_KEY': got string, want null"),
        ({"settings": {"poolSize": 5}}, "at '/settings': additional properties 'poolSize' not allowed"),
        ({"image": {"tag": "latest"}}, "image.tag: latest names no release"),
        (
            {"pgbouncer": {"enabled": True, "image": "pgbouncer:1", "host": "db"}},
            "at '/secret/keys/MIGRATION_URI': minLength: got 0, want 1",
        ),
        (
            {
                "pgbouncer": {"enabled": True, "image": "pgbouncer", "host": "db"},
                "secret": {"keys": ALL_KEYS},
            },
            "at '/pgbouncer/image': 'pgbouncer' does not match",
        ),
        ({"pgbouncer": {"tls": "verify-ca"}}, "at '/pgbouncer/tlsCaKey': minLength: got 0, want 1"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError) as refused:
        chart.render(values)

    assert message in str(refused.value)
    assert str(refused.value).count("\n- ") <= 1


def test_no_secret_setting_can_be_given_in_the_open() -> None:
    schema = read_schema()["properties"]
    secrets = {name.upper() for name, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)}

    assert set(schema["secret"]["properties"]["keys"]["properties"]) == secrets
    assert {
        name for name, part in schema["settings"]["properties"].items() if part["type"] == "null"
    } == secrets


def test_manifests_and_readme_are_what_the_chart_makes() -> None:
    rendered = runpy.run_path(str(ROOT / "deploy" / "render.py"))["rendered"]()

    stale = [path for path, text in rendered.items() if path.read_text(encoding="utf-8") != text]

    assert stale == [], "run: python deploy/render.py"
    written = {path for path in rendered if path.name != "README.md"}
    assert set((ROOT / "deploy" / "kubernetes").glob("*")) - written == {
        ROOT / "deploy" / "kubernetes" / "values.yaml"
    }


def test_what_changes_a_migration_makes_another_job(tmp_path: Path) -> None:
    chart = load(tmp_path, "migration.yaml")
    changes: list[dict[str, Any]] = [
        {},
        {"image": {"tag": "0.2.0"}},
        {"migration": {"run": "2"}},
        {"migration": {"phase": "post"}},
        {"migration": {"backoffLimit": 1}},
        {"settings": {"MIGRATION_WAIT": 60}},
    ]

    names = {document["metadata"]["name"] for values in changes for document in all_of(chart, values)}

    assert len(names) == len(changes)
    assert all(re.fullmatch("platform-db-migrate-0-1-0-[0-9a-f]{8}", name) for name in names)


def test_only_the_hook_is_one(tmp_path: Path) -> None:
    chart = load(tmp_path, *TEMPLATES)

    for mode in ("job", "hook", "initContainer", "none"):
        found = all_of(chart, {"migration": {"mode": mode}})
        hooks = [d for d in found if any("helm.sh/hook" in key for key in annotations(d))]
        # A job that removes itself would be made again by what compares the cluster with the manifests.
        assert not any("ttlSecondsAfterFinished" in json.dumps(document) for document in found)
        assert [document["kind"] for document in hooks] == (["Job"] if mode == "hook" else [])
        for hook in hooks:  # nothing of the chart exists before the first install
            assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert not {d["metadata"]["name"] for d in found if d["kind"] == "ConfigMap"} & set(
                names_used(hook)
            )
            assert not {"Secret", "ServiceAccount", "PersistentVolumeClaim"} & {d["kind"] for d in found}


def test_roles_are_made_and_granted_between_upgrade_and_init(tmp_path: Path) -> None:
    values = {"migration": {"roles": {"create": True, "grant": [{"login": "api"}]}}}

    [job] = all_of(load(tmp_path, "migration.yaml"), values)

    pod = job["spec"]["template"]["spec"]
    assert [container["args"] for container in (*pod["initContainers"], *pod["containers"])] == [
        ["alembic", "upgrade", "--phase", "pre"],
        ["roles", "create"],
        ["roles", "grant", "--to", "api", "--as", "service"],
        ["init", "--phase", "pre"],
    ]


def test_cronjobs_get_no_statement_timeout(tmp_path: Path) -> None:
    settings = {"STATEMENT_TIMEOUT": 30000, "LOG_FORMAT": "json"}
    chart = load(tmp_path, "cronjobs.yaml", "metrics.yaml")

    for document in all_of(chart, {"settings": settings}):
        for container in (c for pod in pods(document) for c in pod["containers"]):
            given = {variable["name"] for variable in container["env"]}
            assert "PLATFORM_DB_LOG_FORMAT" in given
            assert ("PLATFORM_DB_STATEMENT_TIMEOUT" in given) == (document["kind"] != "CronJob")


def test_the_charts_own_pods_may_use_its_pooler(tmp_path: Path) -> None:
    chart = load(tmp_path, "networkpolicies.yaml", "cronjobs.yaml", "metrics.yaml")
    peer = {"podSelector": {"matchLabels": {"uses-database": "yes"}}}
    values = {"pgbouncer": {"enabled": True}, "networkPolicy": {"poolerFrom": [peer]}}

    found = all_of(chart, values)

    [pooler] = [d for d in found if d["metadata"]["name"] == "platform-db-pgbouncer"]
    *own, given = pooler["spec"]["ingress"][0]["from"]
    assert given == peer
    [labels] = [peer["podSelector"]["matchLabels"] for peer in own]
    templates = [d["spec"]["jobTemplate"]["spec"]["template"] for d in found if d["kind"] == "CronJob"]
    templates += [d["spec"]["template"] for d in found if d["kind"] == "Deployment"]
    assert templates
    assert all(labels.items() <= template["metadata"]["labels"].items() for template in templates)


def test_the_pooler_finds_the_authority_of_the_server(tmp_path: Path) -> None:
    chart = load(tmp_path, "pgbouncer.yaml")
    config, pooler, *_ = all_of(chart, merged(EVERYTHING, assigned({"pgbouncer.enabled": True})))

    assert "server_tls_ca_file = /run/secrets/pgbouncer/ca.crt\n" in f"{config['data']['pgbouncer.ini']}\n"
    [secret] = [
        volume["secret"] for volume in pooler["spec"]["template"]["spec"]["volumes"] if "secret" in volume
    ]
    assert {"key": "authority", "path": "ca.crt"} in secret["items"]


def test_shards_are_indexes_of_one_job(tmp_path: Path) -> None:
    values = {
        "workspaces": {"existingClaim": "workspaces"},
        "cronJobs": {"disk-usage": {"shards": 4}},
    }

    jobs = {d["metadata"]["name"]: d["spec"] for d in all_of(load(tmp_path, "cronjobs.yaml"), values)}

    spec = jobs["platform-db-disk-usage"]["jobTemplate"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert container["args"][-2:] == ["--shard", "$(SHARD)/4"]
    assert {"SHARD"} == {e["name"] for e in container["env"] if "job-completion-index" in json.dumps(e)}


def test_another_chart_waits_for_the_schema_in_one_line(tmp_path: Path) -> None:
    service = tmp_path / "service"
    (service / "templates").mkdir(parents=True)
    shutil.copytree(CHART, service / "charts" / "platform-db")
    (service / "Chart.yaml").write_text(
        'apiVersion: v2\nname: service\nversion: 1.0.0\ndependencies: [{name: platform-db, version: "*"}]\n'
    )
    (service / "values.yaml").write_text("platform-db: {secret: {keys: {SECRET_KEY: key}}}\n")
    (service / "templates" / "deployment.yaml").write_text("""
apiVersion: apps/v1
kind: Deployment
metadata: {name: service}
spec:
  selector: {matchLabels: {app: service}}
  template:
    metadata: {labels: {app: service}}
    spec:
      initContainers:
        {{- include "platform-db.waitContainer" . | nindent 8 }}
      containers:
        - name: service
          image: service:1
          env:
            {{- include "platform-db.env" . | nindent 12 }}
          volumeMounts:
            {{- include "platform-db.volumeMounts" . | nindent 12 }}
      volumes:
        {{- include "platform-db.volumes" . | nindent 8 }}
""")

    with helm.Chart.load(service) as chart:
        [document] = documents([chart.render({}, name="mine")["service/templates/deployment.yaml"]])

    validate(document)
    pod = document["spec"]["template"]["spec"]
    [waiting], [own] = pod["initContainers"], pod["containers"]
    check_command(waiting["args"])
    check_container(waiting)
    assert waiting["image"] == "platform-db:0.1.0"
    assert {volume["name"] for volume in pod["volumes"]} == {"uri", "secret-key"}
    assert {mount["name"] for mount in own["volumeMounts"]} == {"uri", "secret-key"}
    assert [mount["name"] for mount in waiting["volumeMounts"]] == ["uri"]


def test_a_chart_can_have_the_templates_alone(tmp_path: Path) -> None:
    nothing = {
        "migration": {"mode": "none"},
        "cronJobDefaults": {"enabled": False},
        "metrics": {"enabled": False},
        "networkPolicy": {"enabled": False},
    }

    assert all_of(load(tmp_path, *TEMPLATES), nothing) == []


def test_the_same_values_always_give_the_same_manifests(tmp_path: Path) -> None:
    chart = load(tmp_path, *TEMPLATES)

    first = chart.render(EVERYTHING, name="platform-db", revision=1, is_install=True)

    assert chart.render(EVERYTHING, name="platform-db", revision=7, is_upgrade=True) == first


def test_values_on_the_page_are_values() -> None:
    page = ROOT / "docs" / "kubernetes.rst"
    shown = [yaml.safe_load(b.code) for b in BLOCKS if b.page == page and b.language == "yaml"]
    values = [block.get("platform-db", block) for block in shown]
    values = [block for block in values if not {"initContainers", "scrape_configs"} & set(block)]

    assert values
    with helm.Chart.load(CHART) as chart:
        for block in values:
            chart.validate_schema(block)


def test_the_page_lists_the_cronjobs() -> None:
    page = (ROOT / "docs" / "kubernetes.rst").read_text(encoding="utf-8")
    table = dict(re.findall(r"^``([\w-]+)`` +``([\w -]+)``", page, re.MULTILINE))
    jobs = helm.Chart.load(CHART).values["cronJobs"]

    assert set(table) == set(jobs)
    assert all(" ".join(jobs[name]["args"]).startswith(command) for name, command in table.items())


# What each document of the chart has to be.


def check(document: Document) -> None:
    if document["kind"] not in CUSTOM_KINDS:
        validate(document)
    assert len(document["metadata"]["name"]) <= (52 if document["kind"] == "CronJob" else 63)
    if document["kind"] in ("Job", "CronJob"):
        check_job(document)
    for pod in pods(document):
        check_pod(pod)


def check_job(document: Document) -> None:
    spec = document["spec"]
    if document["kind"] == "CronJob":
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] >= 10
        assert "successfulJobsHistoryLimit" in spec
        assert "failedJobsHistoryLimit" in spec
        spec = spec["jobTemplate"]["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert "backoffLimit" in spec or "backoffLimitPerIndex" in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy takes no other
    actions: dict[int, str] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {}).get("values", [])
        assert codes == sorted(set(codes))  # the API refuses others
        actions |= dict.fromkeys(codes, rule["action"])
    assert set(actions) <= set(errors.exit_codes())
    assert actions[errors.AlreadyRunning.exit_code] == "Count"
    assert actions[errors.NotDirect.exit_code] in ("FailJob", "FailIndex")
    assert actions[errors.PartialFailure.exit_code] in ("FailJob", "FailIndex")
    for passing in (errors.Unreachable, errors.NeverMigrated, errors.SchemaBehind, errors.MigrationBlocked):
        assert passing.exit_code not in actions


def check_pod(pod: Document) -> None:
    """Refuse what the profile *restricted* of the Pod Security Standards refuses, and more."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["runAsGroup"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(set(v) <= {"name", "secret", "configMap", "persistentVolumeClaim"} for v in pod["volumes"])
    volumes = {volume["name"] for volume in pod["volumes"]}
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    assert volumes == {mount["name"] for container in containers for mount in container["volumeMounts"]}
    for container in containers:
        check_container(container)


def check_container(container: Document) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
    assert set(container["resources"]["limits"]) >= {"memory"}
    assert re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"])
    for variable in container.get("env", []):
        check_variable(container, variable)
    if "args" in container:
        check_command(container["args"])
    else:
        assert container["name"] == "pgbouncer"


def check_variable(container: Document, variable: Document) -> None:
    """Refuse a secret in the environment, a setting that does not exist, and a file that is not mounted."""
    assert "secretKeyRef" not in json.dumps(variable)
    if variable["name"] == "SHARD":
        return
    name = variable["name"].removeprefix("PLATFORM_DB_").removesuffix("_FILE").lower()
    assert "postgresql" not in variable["value"]
    if "SecretStr" in str(Settings.model_fields[name].annotation):
        assert variable["name"].endswith("_FILE")
        folder = str(Path(variable["value"]).parent)
        assert folder in [mount["mountPath"] for mount in container["volumeMounts"] if mount["readOnly"]]


@cache
def parsed(args: tuple[str, ...]) -> click.Command:
    context = click.Context(main, info_name="platform-db")
    command: click.Command = main
    rest = list(args)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert name is not None
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context(args[-1], rest, parent=context)  # refuses options that it does not have
    return command


def check_command(args: list[str]) -> None:
    parsed(tuple(argument.replace("$(SHARD)", "0") for argument in args))


def validate(document: Document) -> None:
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    for version in KUBERNETES:
        errors_ = [
            e.message for e in validator(version, f"{document['kind'].lower()}-{api}").iter_errors(document)
        ]
        assert errors_ == []


@cache
def validator(version: str, name: str) -> Any:
    """Read each schema once: kubernetes_validate reads all of a version's definitions for every document."""
    folder = Path(kubernetes.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    schema = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, registry=definitions(folder))


@cache
def definitions(folder: Path) -> Any:
    contents = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


# Rendering.


def load(folder: Path, *templates: str) -> Any:
    """Return the chart with these templates alone, and without its schema, which Helm compiles each time."""
    left_out = {*TEMPLATES, "values.schema.json"}.difference(templates)
    shutil.copytree(CHART, folder / "platform-db", ignore=lambda _, names: left_out.intersection(names))
    return helm.Chart.load(folder / "platform-db")


def render(chart: Any, values: dict[str, Any]) -> Iterator[str]:
    """Yield the text of each document."""
    for name, text in chart.render(values, name="platform-db", namespace="platform").items():
        if name.endswith(".yaml"):
            yield from (part for part in re.split("^---$", text, flags=re.MULTILINE) if part.strip())


@cache
def read_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return schema


def documents(texts: Iterator[str] | set[str] | list[str]) -> Iterator[Document]:
    for text in texts:
        yield from parse(text)


@cache
def parse(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def all_of(chart: Any, values: dict[str, Any]) -> list[Document]:
    return list(documents(render(chart, values)))


def pods(part: Any) -> Iterator[Document]:
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for value in part.values():
            yield from pods(value)


def annotations(document: Document) -> Mapping[str, str]:
    found: Mapping[str, str] = document["metadata"].get("annotations", {})
    return found


def names_used(document: Document) -> Iterator[str]:
    """Yield the names of objects that a job's pod needs."""
    pod = document["spec"]["template"]["spec"]
    yield pod["serviceAccountName"]
    for volume in pod["volumes"]:
        yield from (
            str(value) for part in volume.values() if isinstance(part, dict) for value in part.values()
        )


# Switches.


def combinations(switches: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for chosen in itertools.product(*switches.values()):
        values = assigned({**dict(zip(switches, chosen, strict=True)), "cronJobs.compact.enabled": True})
        if values not in seen:
            seen.append(values)
            yield values


def assigned(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that have these at these paths."""
    values: dict[str, Any] = {}
    for path, value in chosen.items():
        *parents, last = path.split(".")
        part: dict[str, Any] = {last: value}
        for parent in reversed(parents):
            part = {parent: part}
        values = merged(values, part)
    if values.get("pgbouncer", {}).get("enabled"):
        needed = {"pgbouncer": {"image": "pgbouncer:1.24", "host": "db"}, "secret": {"keys": ALL_KEYS}}
        values = merged(values, needed)
    return values


def merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    both = {**left, **right}
    for name in left.keys() & right.keys():
        if isinstance(left[name], dict) and isinstance(right[name], dict):
            both[name] = merged(left[name], right[name])
    return both


@cache
def values_read(template: str) -> set[str]:
    """Return the paths of the values that a template reads, itself or through what it includes."""
    bodies: dict[str, str] = {}
    for path in (CHART / "templates").glob("*"):
        for name, body in re.findall(
            r'define "([^"]+)"(.*?)(?=\{\{-? define|\Z)', path.read_text(), re.DOTALL
        ):
            bodies[name] = body
    found: set[str] = set()
    seen: set[str] = set()
    todo = [(CHART / "templates" / template).read_text()]
    while todo:
        text = todo.pop()
        found |= set(re.findall(r"\.Values\.([\w.]+)", text))
        included = {name for name in bodies if f'"{name}"' in text} - seen
        seen |= included
        todo += [bodies[name] for name in included]
    return found


def touches(switch: str, value: str) -> bool:
    return f"{switch}.".startswith(f"{value}.") or f"{value}.".startswith(f"{switch}.")


def leaves(part: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, found in part.get("properties", {}).items():
        yield from leaves(found, f"{path}{name}.")
        yield f"{path}{name}", found
