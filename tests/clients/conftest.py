"""A server of the embedded model for the session: the binary that ODMOE_BINARY names."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import openai
import pytest

READY_LIMIT_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A running server, its base URL and its metrics."""

    def __init__(self, folder, *arguments):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "log"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [os.environ["ODMOE_BINARY"], "serve", "--port", self.url.rsplit(":", 1)[1], *arguments],
                env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/ready"):
                    return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise AssertionError(f"not ready within {READY_LIMIT_S} s:\n{self.log.read_text()}")

    def metric(self, name, label=""):
        """The sum over all series of a metric that have a label, written as in the text."""
        with urllib.request.urlopen(f"{self.url}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        series = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert series, f"{name} is not exported"
        return sum(float(line.rsplit(" ", 1)[1]) for line in series if label in line)

    def stop(self):
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0, self.log.read_text()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield server.wait_until_ready()
        server.stop()
    finally:
        server.process.kill()


@pytest.fixture
def client(server):
    """The SDK without its retries, so that every error shows."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def model(client):
    models = list(client.models.list())
    assert len(models) == 1
    return models[0].id
