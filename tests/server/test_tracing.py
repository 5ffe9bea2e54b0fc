"""OpenTelemetry around the server, with its own launcher and a collector that listens."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving import A, B, files, serving

LAUNCHER = str(Path(sys.executable).parent / "opentelemetry-instrument")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Its address, and the spans that have come."""
    spans = list[Any]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def environment(address: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": "x-request-id",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",  # ms, in which spans are kept: only the stop sends them
    }


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_each_request_is_traced_and_a_stop_sends_what_is_left() -> None:
    with collector() as (address, spans):
        with serving(within=[LAUNCHER], **environment(address)) as served, served.client() as client:
            parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert client.post("/v1/compare", files=files(a=A, b=B), headers=parent).status_code == 200
            bad = client.post("/v1/compare", files=files(a=b"no image", b=B), headers={"X-Request-ID": "a b"})
            assert bad.status_code == 422
            assert served.stop() == 0
        done = [span for span in spans if span.name == "POST /v1/compare"]
    codes = [attributes(span)["http.status_code"] for span in done]
    assert codes == [200, 422]
    assert [attributes(span)["http.route"] for span in done] == ["/v1/compare"] * 2
    assert (done[0].trace_id.hex(), done[0].parent_span_id.hex()) == (TRACE, PARENT)
    assert done[1].trace_id.hex() != TRACE
    (known,) = attributes(done[1])["http.request.header.x_request_id"].values
    assert known.string_value == bad.headers["x-request-id"] == served.lines[2]["request_id"]


def test_a_collector_that_is_gone_keeps_no_server() -> None:
    with collector() as (address, _):
        pass
    with serving(within=[LAUNCHER], **environment(address)) as served, served.client() as client:
        assert client.post("/v1/compare", files=files(a=A, b=B)).status_code == 200
        assert served.stop() == 0
    assert any("export" in line["event"].lower() for line in served.lines)  # its own words, as a line of JSON
