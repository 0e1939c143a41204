"""What the daemons expose is what docs/metrics.md says, and what alerts and dashboard are about.

With Debian's Prometheus: its own tool tests the alerts, and the server scrapes the daemons and evaluates them.
"""

import base64
import contextlib
import datetime
import json
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from suite import PROGRAMS, check, finish, run, skip

ROOT = pathlib.Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy/observability"
PATIENCE = 60
# What Prometheus adds to a family's name.
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
# Only with a container runtime, which is another test's.
ABSENT = {"sealift_nri_connected"}
FUNCTIONS = "absent by histogram_quantile increase min rate sum time topk le without max".split()


def documented():
    """Name to type and labels."""
    rows = re.findall(
        r"^\| `(sealift_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def series_names(families):
    return {
        name + suffix
        for name, (kind, _) in families.items()
        for suffix in SUFFIXES.get(kind, ("",))
    }


def parse(page):
    """Name to type and the labels of its samples. Every family has its help, a type and one place."""
    families, labels = {}, {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in families, f"{name} stands twice"
            families[name] = kind
            assert f"# HELP {name} " in page, name
        elif not line.startswith("#"):
            series, text, _ = re.fullmatch(r"(\w+)(\{.*\})? (\S+)", line).groups()
            name = next(n for n in (series, re.sub("_(bucket|sum|count)$", "", series)) if n in families)
            labels.setdefault(name, set()).update(re.findall(r"[{,](\w+)=\"", text or ""))
    return {name: (kind, labels.get(name)) for name, kind in families.items()}


def used(expression):
    """The names of series in an expression: what is neither a label nor a function."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(by|without)\s*\([^)]*\)", "", bare)
    names = set(re.findall(r"[a-zA-Z_]\w*", bare))
    return names - set(FUNCTIONS)


def certificate(scratch):
    """A CA and the broker's certificate for localhost."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def make(name, signer, key, more):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
        for extension, critical in more:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    (scratch / "ca.pem").write_bytes(make("test CA", ca, ca, [(constraints, True)]))
    (scratch / "broker.pem").write_bytes(make("localhost", ca, key, [(names, False)]))
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (scratch / "broker.key").write_bytes(pem)
    (scratch / "broker.key").chmod(0o600)


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(action, process):
    """What `action` gives once it gives something without an error."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if found := action():
                return found
        except (OSError, subprocess.SubprocessError) as error:
            failure = error
        else:
            failure = "it says nothing yet"
        assert process.poll() is None, f"{process.args} has ended"
        assert time.monotonic() < end, failure
        time.sleep(0.05)


@contextlib.contextmanager
def running(*command, **settings):
    program = PROGRAMS / command[0] if isinstance(command[0], str) else command[0]
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(
        [program, *map(str, command[1:])], stdout=log, stderr=log, **settings
    )
    try:
        yield process
    except BaseException:
        log.seek(0)
        print(log.read().decode(errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        process.wait()
        log.close()


def volume(root, plugin, name, files):
    """A volume as kubelet writes it."""
    directory = root / "pods/3f2504e0-4f89-41d3-9a0c-0305e82c3301/volumes" / f"kubernetes.io~{plugin}" / name
    revision = directory / "..2026_01_01_00_00_00.1"
    revision.mkdir(parents=True)
    for file, text in files.items():
        (revision / file).write_text(text)
        (directory / file).symlink_to(f"..data/{file}")
    (directory / "..data").symlink_to(revision.name)
    return directory


def token():
    now = int(time.time())
    claims = base64.urlsafe_b64encode(json.dumps({"iat": now, "exp": now + 3600}).encode())
    return f"e30.{claims.decode().rstrip('=')}.c2ln"


@contextlib.contextmanager
def daemons(scratch):
    """All four, with volumes on their way: where each is read."""
    certificate(scratch)
    trust = ssl.create_default_context(cafile=scratch / "ca.pem")
    run("sealift-broker", "init", "--data-dir", "data", "--keys-dir", "keys", cwd=scratch)
    ports = {name: port() for name in ("broker", "host", "guest", "unsealer")}
    pages = {name: f"http://127.0.0.1:{at}" for name, at in ports.items()}
    pages["broker"] = f"https://localhost:{ports['broker']}"
    kubelet = scratch / "kubelet"
    (kubelet / "pods").mkdir(parents=True)
    socket_of = {name: scratch / f"{name}.sock" for name in ("host", "guest", "unsealer")}

    def read(name, path="/metrics"):
        context = trust if name == "broker" else None
        with urllib.request.urlopen(pages[name] + path, timeout=10, context=context) as answer:
            return answer.read().decode()

    arguments = {
        "broker": ["sealift-broker", "serve", "--data-dir", "data"]
        + ["--master-key-file", "keys/master.key", "--tls-cert", "broker.pem"]
        + ["--tls-key", "broker.key", "--listen", f"127.0.0.1:{ports['broker']}"],
        "guest": ["sealift-guest", "run", "--listen", f"unix:{socket_of['guest']}"]
        + ["--root", scratch / "guest", "--plain-directories"]
        + ["--metrics", f"127.0.0.1:{ports['guest']}"],
        "host": ["sealift-host", "--socket", socket_of["host"], "run"]
        + ["--kubelet-root", kubelet, "--state-dir", scratch / "state"]
        + ["--metrics", f"127.0.0.1:{ports['host']}"],
        "unsealer": ["sealift", "unsealer", "run", "--listen", f"unix:{socket_of['unsealer']}"]
        + ["--kbs-url", "https://localhost:1", "--attester", "sample", "--insecure-dev"]
        + ["--audit-file", "unsealer.log", "--metrics", f"127.0.0.1:{ports['unsealer']}"],
    }
    (scratch / "guest").mkdir()
    with contextlib.ExitStack() as stack:
        for name, command in arguments.items():
            process = stack.enter_context(running(*command, cwd=scratch))
            until(lambda: read(name), process)
        found = [
            volume(kubelet, "configmap", "app", {"a": "b"}),
            volume(kubelet, "projected", "token", {"token": token()}),
        ]
        for directory in found:
            run(
                *["sealift-host", "--socket", socket_of["host"], "attach", "--path", directory],
                *["--guest", f"unix:{socket_of['guest']}"],
            )
        yield read, ports


def of_documents(families):
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    tests = yaml.safe_load((OBSERVABILITY / "alerts_test.yaml").read_text())["tests"]
    known = series_names(families)
    with check("alerts are about metrics that exist, and each says what to do"):
        headings = re.findall(r"^## (\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
        assert headings == [alert["alert"] for alert in alerts], headings
        for alert in alerts:
            assert used(alert["expr"]) <= known, alert["expr"]
            page = f"docs/alerts.md#{alert['alert'].lower()}"
            assert alert["annotations"]["runbook_url"] == page
            assert alert["labels"]["severity"] in ("warning", "critical")
    with check("each alert has a test in which it fires and one in which it does not"):
        cases = [
            (case["alertname"], bool(case["exp_alerts"]))
            for test in tests
            for case in test["alert_rule_test"]
        ]
        expected = [(alert["alert"], fires) for alert in alerts for fires in (True, False)]
        assert sorted(cases) == sorted(expected), cases
    with check("the chart's alerts are these"):
        text = run("sealift", "manifest", "monitoring", "--set", "image.registry=a/b")
        (rule,) = (d for d in yaml.safe_load_all(text) if d["kind"] == "PrometheusRule")
        assert rule["spec"] == rules
    with check("the dashboard is about metrics that exist"):
        dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text())
        assert dashboard["schemaVersion"] >= 36 and dashboard["uid"] and dashboard["title"]
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids) > 10
        expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
        shown = set()
        for expression in expressions:
            names = used(expression)
            assert names and names <= known, (expression, names - known)
            shown |= names
        print(f"  {len(alerts)} alerts, {len(ids)} panels of {len(shown)} series")
    return alerts


def of_pages(read, families):
    """What is exposed, all daemons together, for what comes after."""
    exposed = {}
    # Once for itself: a request is counted when it is answered.
    for name in "broker", "host", "guest", "unsealer":
        read(name)
        page = read(name)
        with check(f"what the {name} exposes is documented: names, types, labels"):
            found = parse(page)
            assert len(found) > 3
            for metric, (kind, labels) in found.items():
                assert metric in families, f"{metric} is not in docs/metrics.md"
                expected_kind, expected_labels = families[metric]
                assert kind == expected_kind, metric
                if metric not in ABSENT:
                    assert labels == expected_labels, (metric, labels)
                if kind == "counter":
                    assert metric.endswith("_total"), metric
                assert not re.search("_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", metric)
        exposed |= found
    with check("what is documented is exposed"):
        assert families.keys() == exposed.keys(), families.keys() ^ exposed.keys()
    for name in "broker", "host", "unsealer":
        with check(f"the {name} answers probes"):
            assert read(name, "/healthz") == "ok\n" and read(name, "/readyz") == "ready\n"


def of_runtime(scratch):
    with check("a host agent that is no runtime's plugin is alive and not ready"):
        at = port()
        kubelet = scratch / "kubelet"
        arguments = ["--kubelet-root", kubelet, "--state-dir", scratch / "state-2"]
        arguments += ["--metrics", f"127.0.0.1:{at}", f"--nri={scratch}/no-runtime.sock"]
        with running("sealift-host", "--socket", scratch / "host-2.sock", "run", *arguments) as host:

            def get(path):
                return urllib.request.urlopen(f"http://127.0.0.1:{at}{path}", timeout=10).read()

            assert until(lambda: get("/healthz"), host) == b"ok\n"
            assert b"\nsealift_nri_connected 0\n" in get("/metrics")
            try:
                get("/readyz")
            except urllib.error.HTTPError as error:
                assert error.code == 503 and b"NRI plugin" in error.read()
            else:
                raise AssertionError("it is ready")


def of_promtool(promtool):
    with check("promtool finds the alerts correct, and their tests pass"):
        for what in "check", "test":
            file = "alerts.yaml" if what == "check" else "alerts_test.yaml"
            done = subprocess.run(
                [promtool, what, "rules", file], cwd=OBSERVABILITY, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr


def of_prometheus(program, scratch, read, ports, alerts):
    with check("Prometheus scrapes the daemons and evaluates the alerts"):
        at = port()
        target = {
            name: {"job_name": f"sealift-{name}", "static_configs": [{"targets": [f"127.0.0.1:{number}"]}]}
            for name, number in ports.items()
        }
        target["broker"]["scheme"] = "https"
        target["broker"]["static_configs"] = [{"targets": [f"localhost:{ports['broker']}"]}]
        target["broker"]["tls_config"] = {"ca_file": str(scratch / "ca.pem")}
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(OBSERVABILITY / "alerts.yaml")],
            "scrape_configs": list(target.values()),
        }
        (scratch / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        command = [pathlib.Path(program), f"--config.file={scratch}/prometheus.yaml"]
        command += [f"--storage.tsdb.path={scratch}/tsdb", f"--web.listen-address=127.0.0.1:{at}"]
        with running(*command) as process:

            def ask(path, **query):
                url = f"http://127.0.0.1:{at}/api/v1/{path}?{urllib.parse.urlencode(query)}"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return json.load(answer)["data"]

            def scraped():
                targets = ask("targets")["activeTargets"]
                assert not any(t["health"] == "down" and t["scrapePool"] != "" for t in targets), [
                    t["lastError"] for t in targets
                ]
                return len(targets) == 4 and all(t["health"] == "up" for t in targets)

            until(scraped, process)

            def evaluated():
                rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
                if len(rules) != len(alerts) or any(rule["health"] == "unknown" for rule in rules):
                    return None
                return rules

            rules = until(evaluated, process)
            assert all(rule["health"] == "ok" for rule in rules), rules
            assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
            dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text())
            for panel in dashboard["panels"]:
                for shown in panel["targets"]:
                    ask("query", query=shown["expr"])
            (ready,) = ask("query", query="sealift_broker_ready")["result"]
            assert ready["value"][1] == "1"
            count = ask("query", query="count({__name__=~'sealift_.+'})")["result"][0]["value"][1]
            print(f"  {count} series of {len(ports)} daemons")


def main():
    families = documented()
    prometheus, promtool = (shutil.which(name) for name in ("prometheus", "promtool"))
    alerts = of_documents(families)
    with tempfile.TemporaryDirectory(prefix="sealift-") as scratch:
        scratch = pathlib.Path(scratch)
        with daemons(scratch) as (read, ports):
            of_pages(read, families)
            of_runtime(scratch)
            if prometheus and promtool:
                of_promtool(promtool)
                of_prometheus(prometheus, scratch, read, ports, alerts)
            else:
                skip("Prometheus scrapes the daemons and evaluates the alerts", "no prometheus here")
    finish()


main()
