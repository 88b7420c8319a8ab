# SPDX-License-Identifier: MIT
"""How each program is run and read: start the server, run the client, return the figures.

Every function takes the Point and the parameters of its row, and returns a dictionary: "value" is the figure of the
row, other keys are printed in the tables of details.
"""

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

from .point import RING, PointFailed

PAIRS = Path(__file__).resolve().parents[1] / "pairs"

# nginx asks which environment variables its workers keep; the library is configured before that.
NGINX_CONF = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error; user root;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush off;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  {upstream}
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {location} }} }}
}}
"""
FILES = {"upstream": "", "location": "root .;"}


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def number(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    if not match:
        raise PointFailed(f"no figure in: {text.strip()[-300:]}")
    return float(match.group(1))


def timing(point):
    return [f"--duration={point.seconds}", f"--warmup={point.warmup}"]


# Programs of our own


def bare_ring(point, what, size):
    """bench/ring.c: two processes by itself. In `stream` the end that is started sends, as the client does."""
    client_cpu, server_cpu = point.row.cpus[1], point.row.cpus[0]
    out = last_json(point.client(point.program("ring"), what, f"--size={size}", f"--cpu={client_cpu}",
                                 f"--peer-cpu={server_cpu}", *timing(point)))
    return {"value": out.pop("per_second", None) or out.pop("mb_per_second"), **out}


def rr(point, size=1, epoll=False, connections=1, reconnect=0):
    if point.transport == RING:
        return bare_ring(point, "rr", size)
    shared = [f"--size={size}"] + ["--epoll"] * epoll
    program = point.program("rr")
    address = point.server(program, "server", point.own_address(), *shared, *point.cpu_options(0))
    client = last_json(point.client(program, "client", address, *shared, *point.cpu_options(1), *timing(point),
                                    f"--connections={connections}", *[f"--reconnect={reconnect}"] * bool(reconnect)))
    server = last_json(point.stop_server())
    return {"value": client["per_second"], "p50_us": client["p50_us"], "p99_us": client["p99_us"],
            "p999_us": client["p999_us"], "cpu_us": client["cpu_us"] + server["cpu_us"]}


def idle_beside(point, idle, size=64):
    """How many times as long the median round trip takes with idle connections in both ends' epoll sets."""
    program, shared = point.program("rr"), [f"--size={size}", "--epoll"]
    address = point.server(program, "server", point.own_address(), *shared, *point.cpu_options(0))

    def median(*options):
        return last_json(point.client(program, "client", address, *shared, *point.cpu_options(1), *timing(point),
                                      *options))["p50_us"]

    alone = median()
    return {"value": median(f"--idle={idle}") / alone}


def stream(point, size, reverse=False, nagle=False):
    if point.transport == RING:
        return bare_ring(point, "stream", size)
    shared = [f"--size={size}", *timing(point)] + ["--reverse"] * reverse + ["--nagle"] * nagle
    program = point.program("stream")
    address = point.server(program, "server", point.own_address(), *shared, *point.cpu_options(0))
    client = last_json(point.client(program, "client", address, *shared, *point.cpu_options(1)))
    server = last_json(point.stop_server())
    receiver = client if reverse else server
    return {"value": receiver["mb_per_second"],
            "cpu_ns_per_byte": client["cpu_ns_per_byte"] + server["cpu_ns_per_byte"]}


def memcached(point, connections, size=100):
    port, path = point.port(), point.socket_path()
    where = ["-s", path, "-a", "0777"] if point.unix else ["-l", "127.0.0.1", "-p", port, "-U", "0"]
    point.server("memcached", "-u", "root", *where, listening=[path if point.unix else port], stop_signal=signal.SIGINT)
    client = last_json(point.client(point.program("mcload"), path if point.unix else port, f"--size={size}", "--epoll",
                                    f"--connections={connections}", *timing(point)))
    return {"value": client["per_second"], "p50_us": client["p50_us"], "p99_us": client["p99_us"],
            "p999_us": client["p999_us"]}


# Programs of others


def redis(point, test, clients, pipeline=1, size=3):
    port, path = point.port(), point.socket_path()
    point.server("redis-server", "--bind", "127.0.0.1", "--port", port, "--unixsocket", path, "--save", "",
                 "--appendonly", "no", "--dir", point.directory, "--maxclients", "1000", listening=[port, path])
    where = ["-s", path] if point.unix else ["-h", "127.0.0.1", "-p", port]

    def benchmark(name, requests):
        out = point.client("redis-benchmark", *where, "--csv", "-t", name, "-c", clients, "-P", pipeline, "-d", size,
                           "-n", int(requests))
        result = next(row for row in csv.DictReader(out.splitlines()) if row["test"] == name.upper())
        return {"value": float(result["rps"]), "p50_us": float(result["p50_latency_ms"]) * 1e3,
                "p99_us": float(result["p99_latency_ms"]) * 1e3}

    # redis-benchmark counts requests, not seconds: two short runs tell how many make up the time.
    benchmark("set", 1000)
    rate = benchmark(test, 2000 * pipeline)["value"]
    rate = benchmark(test, max(rate * point.warmup, 20 * clients))["value"]
    return benchmark(test, max(rate * point.seconds, 20 * clients))


def whole_seconds(point):
    """For programs that count in seconds."""
    return max(1, round(point.seconds))


def start_nginx(point, directory="www", **what):
    port, prefix = point.port(), Path(point.directory, directory)
    prefix.mkdir()
    (prefix / "nginx.conf").write_text(NGINX_CONF.format(port=port, **(what or FILES)))
    (prefix / "small.html").write_text("x" * 612)
    point.server("nginx", "-p", prefix, "-c", "nginx.conf", "-e", "stderr", listening=[port],
                 stop_signal=signal.SIGQUIT)
    return port


def start_proxy(point):
    """An nginx before an nginx, with kept connections between them."""
    behind = start_nginx(point)
    return start_nginx(point, "proxy", upstream=f"upstream files {{ server 127.0.0.1:{behind}; keepalive 64; }}",
                       location="proxy_pass http://files; proxy_http_version 1.1; proxy_set_header Connection \"\";")


def wrk(point, connections=16, start=start_nginx):
    url = f"http://127.0.0.1:{start(point)}/small.html"
    out = point.client("wrk", "-t1", f"-c{connections}", f"-d{whole_seconds(point)}s", "--latency", url)
    if re.search(r"Socket errors|Non-2xx", out):
        raise PointFailed("wrk saw errors: " + " ".join(out.split())[-200:])
    figure = {"value": number(r"^Requests/sec:\s*([\d.]+)", out)}
    for key, percent in (("p50_us", "50"), ("p99_us", "99")):
        value, unit = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)", out, re.MULTILINE).groups()
        figure[key] = float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
    return figure


def ab(point, concurrency=4):
    url = f"http://127.0.0.1:{start_nginx(point)}/small.html"
    # -t alone would stop at 50000 requests.
    out = point.client("ab", "-q", "-d", "-S", "-t", whole_seconds(point), "-n", 10000000, "-c", concurrency,
                       url)
    if number(r"^Failed requests:\s*(\d+)", out) > 0:
        raise PointFailed("ab saw failed requests")
    return {"value": number(r"^Requests per second:\s*([\d.]+)", out)}


def pgbench(point, clients=8, script=("-S",)):
    port, sockets = point.port(), str(point.directory)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={sockets}",
               "-c", "fsync=off", "-c", "autovacuum=off", "-c", "ssl=off"]
    point.server(postgres_program("postgres"), "-D", point.bench.postgres_data, *options, user="postgres",
                 stop_signal=signal.SIGINT, listening=[port, f"{sockets}/.s.PGSQL.{port}"])
    # It listens before it has finished starting up, and refuses clients until then.
    point.server_child.wait_until(lambda: "ready to accept connections" in point.server_child.errors(), "ready")
    host = sockets if point.unix else "127.0.0.1"
    out = point.client(postgres_program("pgbench"), "-h", host, "-p", port, "-n", *script, "-c", clients,
                       "-j", 2, "-T", whole_seconds(point), "postgres", user="postgres")
    return {"value": number(r"^tps = ([\d.]+)", out)}


def postgres_program(name):
    """Debian keeps the server's programs out of PATH."""
    return max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]), default=name)


def iperf3(point, *options):
    port = point.port()
    point.server("iperf3", "-s", "-B", "127.0.0.1", "-p", port, "-1", listening=[port])
    out = json.loads(point.client("iperf3", "-c", "127.0.0.1", "-p", port, "-t", whole_seconds(point), "-J", *options))
    point.wait_server()
    return {"value": out["end"]["sum_received"]["bits_per_second"] / 8e6,
            "cpu_ns_per_byte": iperf3_cpu(out["end"])}


def iperf3_cpu(end):
    """Both ends' processor time for each byte received."""
    percent = end["cpu_utilization_percent"]["host_total"] + end["cpu_utilization_percent"]["remote_total"]
    return percent / 100 * 1e9 * 8 / end["sum_received"]["bits_per_second"]


def sockperf(point):
    port = point.port()
    point.server("sockperf", "server", "--tcp", "-i", "127.0.0.1", "-p", port, listening=[port],
                 stop_signal=signal.SIGINT)
    out = point.client("sockperf", "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", port, "-t", whole_seconds(point))
    def percentile(percent):
        return 2 * number(rf"percentile {percent}\s*=\s*([\d.]+)", out)
    # sockperf reports half of the round trip.
    return {"value": 2 * number(r"Latency is ([\d.]+) usec", out), "p50_us": percentile("50.000"),
            "p99_us": percentile("99.000"), "p999_us": percentile("99.900")}


def pair(point, program, connections=1, size=64, warmup=0.3):
    """Two programs of ours in another language: bench/pairs."""
    address = point.server(*program, "serve", point.own_address())
    client = last_json(point.client(*program, "talk", address, connections, size, warmup, point.seconds))
    return {"value": client["per_second"], "p50_us": client["p50_us"], "p99_us": client["p99_us"],
            "p999_us": client["p999_us"]}


# The library itself


def start_up(point, runs=200):
    """Milliseconds for a process that does nothing, from posix_spawn to its end."""
    env = point.environment(point.preloads("client"))
    env.pop("FASTLOCAL_STATS", None)
    began = time.monotonic()
    for _ in range(runs):
        if os.waitpid(os.posix_spawn("/bin/true", ["true"], env), 0)[1] != 0:
            raise PointFailed("/bin/true failed")
    return {"value": (time.monotonic() - began) * 1e3 / runs}


def idle_memory(point, exchanges, size=64, connections=50):
    """Kilobytes of shared memory that an idle paired connection has really touched: each page counted once."""
    shared = [f"--size={size}", "--epoll"]
    program = point.program("rr")
    address = point.server(program, "server", point.own_address(), *shared)
    client = point.start_client(program, "client", address, *shared, f"--connections={connections}", "--warmup=0",
                                "--duration=10", f"--exchanges={exchanges}", "--hold")
    client.wait_until(lambda: "\n" in client.output(), "idle", 15)
    time.sleep(0.5)
    touched = memfd_pss_kb(client.pid) + memfd_pss_kb(point.server_child.pid)
    client.stop(signal.SIGTERM)
    point.stop_server()
    statistics = point.statistics()
    if not statistics or statistics["paired"] == 0:
        raise PointFailed("no connection was paired")
    if touched == 0:
        raise PointFailed("no shared mapping named fastlocal")
    # Both ends count the connection.
    return {"value": touched / (statistics["paired"] / 2)}


def memfd_pss_kb(pid):
    """Proportional set size of the library's shared mappings: summed over all processes, every page counts once."""
    total, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = "/memfd:" in line and "fastlocal" in line
        elif ours and line.startswith("Pss:"):
            total += int(line.split()[1])
    return total
