"""The files of ``docs/deploy`` fit the server: their settings, their metrics, and nginx in front of it."""

import getpass
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from serving import A, B, Served, bearer, files, problem

from common import ROOT
from simmap.server.metrics import Metrics
from simmap.server.settings import load_settings

DEPLOY = ROOT / "docs" / "deploy"


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def test_kubernetes_knows_all_fields_of_the_manifest() -> None:
    for document in manifest():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_manifest_has_settings_that_the_server_takes(tmp_path: Path) -> None:
    kinds = {one["kind"]: one for one in manifest()}
    path = tmp_path / "server.yaml"
    path.write_text(kinds["ConfigMap"]["data"]["server.yaml"])
    settings = load_settings(str(path), {})
    assert settings.keys["web"].search and not settings.keys["web"].change
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    longest = settings.drain_seconds + settings.body_seconds + settings.run_seconds
    assert pod["terminationGracePeriodSeconds"] > longest
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(client: httpx.Client) -> None:
    client.post("/v1/embed", files=files(image=A))
    known = set(re.findall(r"^# TYPE (\w+) ", client.get("/metrics").text, re.M))
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    alerts = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
    expressions = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    expressions += [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for one in expressions for name in re.findall(r"\b(?:simmap|process)_\w+", one)}
    assert len(asked) > 10 and asked <= known
    kinds = {kind for one in expressions for kind in re.findall(r'kind="(\w+)"', one)}
    source = "".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    assert all(f'"{kind}"' in source for kind in kinds)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_prometheus_takes_the_alerts_and_the_metrics() -> None:
    subprocess.run(["promtool", "check", "rules", DEPLOY / "alerts.yaml"], check=True, capture_output=True)
    metrics = Metrics()
    metrics.requests.labels("/v1/compare", "POST", 200).inc()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.text(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "simmap.service").read_text()
    unit = unit.replace("/opt/simmap/bin/simmap", "/bin/true").replace(
        "=simmap\nGroup=simmap", "=root\nGroup=root"
    )
    path = tmp_path / "simmap.service"
    path.write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "simmap.service" not in done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_nginx_passes_requests_on_and_keeps_metrics_to_itself(
    indexed: tuple[Served, Path], tmp_path: Path
) -> None:
    served = indexed[0]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", tmp_path / "simmap.key", "-out", tmp_path / "simmap.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = served.port + 1 if served.port < 65535 else served.port - 1
    conf = (DEPLOY / "nginx.conf").read_text().replace("/etc/nginx", str(tmp_path))
    conf = conf.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace("8443", f"127.0.0.1:{port}")
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; user {getpass.getuser()}; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} {conf} }}\n"
    )
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as nginx:
        try:
            with httpx.Client(base_url=f"https://localhost:{port}", verify=False, timeout=30) as client:
                waited(client)
                passes(client, served)
        finally:
            nginx.terminate()


def waited(client: httpx.Client) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            assert client.get("/healthz").status_code == 200
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def passes(client: httpx.Client, served: Served) -> None:
    direct: dict[str, Any] = httpx.post(
        f"{served.url}/v1/compare", files=files(a=A, b=B), headers=bearer("read"), timeout=30
    ).json()
    origin = {"Origin": str(client.base_url).rstrip("/")}
    answer = client.post("/v1/compare", files=files(a=A, b=B), headers=bearer("read") | origin)
    assert answer.json() == direct
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])  # nginx's own
    problem(client.post("/v1/compare", files=files(a=A, b=B)), 401)
    assert client.get("/v1/images/others/home.jpg", headers=bearer("search")).status_code == 200
    for path in ("/metrics", "/v1/admin/reload"):
        assert client.get(path, headers=bearer("all")).status_code == 403
    large = client.post("/v1/compare", content=b"x" * (40 << 20), headers=bearer("read"))
    assert large.status_code == 413
