"""Runs openai.test.js, the scenarios of openai-node. ODMOE_NODE names a folder with its packages."""

import os
import pathlib
import shutil
import subprocess

SCENARIOS = pathlib.Path(__file__).parent / "node" / "openai.test.js"


def test_openai_node(server):
    folder = pathlib.Path(os.environ["ODMOE_NODE"])
    # Packages are looked for beside the file that asks for them.
    shutil.copy(SCENARIOS, folder)
    environment = os.environ | {"ODMOE_URL": server.url}
    run = subprocess.run(["node", "--test", SCENARIOS.name], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
