"""make demo: its steps work, its words fit a console, and SHELL=1 is taken the right way."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ["/usr/bin/python3", str(ROOT / "test/demo/demo.py")]
GUARD = 300


def demo(*words, stdin=None):
    done = subprocess.run([*DEMO, *words], input=stdin, capture_output=True, text=True, timeout=GUARD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def namespaces():
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def test_steps_and_width():
    said = demo()
    assert "FAILED" not in said
    assert said.count("\n-- ") == 12 and "masqd was killed" in said
    assert '203.0.113.1 "GET /film' in said and "no-mapping" in said
    assert [line for line in said.splitlines() if len(line) > 76] == []
    assert said.isascii()


def test_shell():
    """The shell is on the LAN host, reaches the server, and the hosts are gone when it ends."""
    said = demo(
        "--shell",
        stdin="echo here: $(ip -br addr show eth0)\nping -c 1 203.0.113.10 | grep -c ' 0% packet loss'\nip netns identify $$\nrouter hostname -I\nmasqd flows\n",
    )
    shell = said.split("This is a shell", 1)[1]
    assert "192.168.1.10/24" in shell and "\n1\n" in shell
    assert "203.0.113.1" in shell and " sessions\n" in shell
    name = next(line for line in shell.splitlines() if line.startswith("mq") and line.endswith("-h1"))
    assert name not in namespaces()


def test_make_takes_shell_for_its_own_word(tmp_path):
    """`make demo SHELL=1`: recipes, $(shell ...) and sub-makes still have a shell, and the demo is told."""
    (tmp_path / "Makefile").write_text(
        f"include {ROOT}/test/demo/demo.mk\n"
        "seen := $(shell echo shell works)\n"
        "demo:\n\t@echo '$(seen): $(DEMO)'\n\t@$(MAKE) --no-print-directory sub\n"
        "sub:\n\t@echo sub-make $(SHELL) $(OTHER)\n"
    )

    def make(*words):
        done = subprocess.run(["make", "--no-print-directory", "-C", tmp_path, "demo", *words], capture_output=True, text=True, timeout=GUARD)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert make() == ["shell works: /usr/bin/python3 test/demo/demo.py ", "sub-make /bin/sh"]
    assert make("SHELL=1", "OTHER=7") == ["shell works: /usr/bin/python3 test/demo/demo.py --shell", "sub-make /bin/sh 7"]
