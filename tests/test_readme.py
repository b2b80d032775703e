"""Every block of the README and of its chapters runs: Python in a fresh process, commands through
the shell; every link leads somewhere."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
import yaml

import spikerl

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CHAPTERS = sorted((ROOT / "spikerl").rglob("README.md"))
SKIPPED = {".git", ".venv", ".pytest_cache", "node_modules"}
PAGES = sorted(p for p in ROOT.rglob("*.md") if not SKIPPED & {*p.relative_to(ROOT).parts})
# Installing is what brought this process here, and the test command is the one that is running.
ELSEWHERE = ("pip install", "python -m pytest")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and code of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands(code: str) -> list[str]:
    return [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


COMMANDS = [c for language, code in blocks(README) if language == "console" for c in commands(code)]


def run(arguments, where):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "-p no:nengo",  # where nengo is installed, its plug-in breaks pytest 9
    }
    return subprocess.run(
        arguments, cwd=where, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def checkout(tmp_path):
    """A directory that looks like a checkout to the examples, but is thrown away."""
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    return tmp_path


def run_python(code, checkout):
    if "parametrize_with_checks" in code:
        (checkout / "test_it.py").write_text(code)
        done = run([sys.executable, "-m", "pytest", "-q", "test_it.py"], checkout)
        assert re.search(r"^\d+ passed", done.stdout, re.M), done.stdout + done.stderr
    else:
        (checkout / "block.py").write_text(code)
        done = processes.run_python(checkout / "block.py", cwd=checkout)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_command(command, checkout):
    done = run(["bash", "-c", command], checkout)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stdout.strip(), command
    return done.stdout


def figures(text):
    """The returns, the agreement and the rates that `spikerl evaluate` prints."""
    returns = re.findall(r"│ (?:original|spiking).*?│ *([\d.]+) ±", text)
    (agreement,) = re.findall(r"states visited: ([\d.]+)%", text)
    (rates,) = re.findall(r"by layer: (.*)", text)
    return [float(x) for x in (*returns, agreement, *rates.split(", "))]


def assert_printed(shown, printed):
    """What a page shows is what came out, as far as another machine would say the same."""
    if "states visited" in shown:
        found, wanted = figures(printed), figures(shown)
        assert len(found) == len(wanted)
        # Matrix products of another machine round otherwise, and a closed loop amplifies it.
        assert found == pytest.approx(wanted, rel=0.02)
        return
    number = r"\d+(?:\.\d+)?"
    assert re.sub(number, "#", printed) == re.sub(number, "#", shown)
    found, wanted = (float(re.findall(number, text)[1]) for text in (printed, shown))
    assert found == pytest.approx(wanted, rel=0.05)  # the agreement


@pytest.mark.parametrize("page", [README, *CHAPTERS], ids=name_of)
def test_every_block_of_a_page_runs_in_its_order(page, checkout):
    """One checkout for a page: what a block saves, a later one may load."""
    printed = ""
    for language, code in blocks(page):
        if language == "python":
            printed = run_python(code, checkout)
        elif language == "console":
            for command in commands(code):
                if not command.startswith(ELSEWHERE):
                    printed = run_command(command, checkout)
        elif language == "text":
            assert_printed(code, printed)


def test_the_pages_have_examples_commands_and_what_they_print():
    languages = [language for language, _ in blocks(README)]
    assert languages.count("python") >= 5
    assert languages.count("text") == 2
    assert any(line.startswith("spikerl ") for line in COMMANDS)
    names = {name_of(page) for page in CHAPTERS}
    linked = {target for target, _ in links(README)}
    assert len(names) == 6
    assert names <= linked, "the README lists its chapters"


def test_the_readme_names_every_example():
    found = {target for target, _ in links(README) if target.startswith("examples/")}
    assert found == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def prose(page: Path) -> str:
    """A page without its code, where a comment may look like a heading and an index like a link."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Target and anchor of every relative link."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: small letters, no punctuation, hyphens for blanks."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?)\s*$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link its words
        base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        name, n = base, 0
        while name in found:  # the second one of a name is numbered
            n += 1
            name = f"{base}-{n}"
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    lost = []
    for target, anchor in links(page):
        place = (page.parent / target).resolve() if target else page
        if not place.exists() or (
            anchor and place.suffix == ".md" and anchor not in anchors(place)
        ):
            lost.append(f"{target}#{anchor}" if anchor else target)
    assert not lost, f"{name_of(page)} links to what is not there: {', '.join(lost)}"


def test_links_and_headings_are_found_as_github_finds_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Why does `it` differ?\n## A [link](x.md) + B_c\n## Same\n## Same\n"
        "[a](b.md#c) [d](#same-1) [e](https://f.g) `[not](this)`\n```sh\n# nor this\n```\n"
    )
    assert anchors(page) == {"why-does-it-differ", "a-link--b_c", "same", "same-1"}
    assert list(links(page)) == [("x.md", ""), ("b.md", "c"), ("", "same-1")]


# where figures, names and settings stand in a message, or two messages meet
FILLED_IN = r"[-+]?\d[\d.,]*|\w+\.\w+|None|LunarLander|agreement|wilson and|episodes|\.{3}|; "
FILLED_IN += r"|(?=the range)"


def said_in(*folders: str) -> list[str]:
    """Every literal piece of text in modules of the package."""
    modules = [path for name in folders for path in (ROOT / "spikerl").glob(name)]
    nodes = [node for path in modules for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    return [
        " ".join(node.value.split())
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_guide_quotes_what_reports_and_warnings_say():
    page = (ROOT / "spikerl" / "conversion" / "README.md").read_text("utf-8")
    guide = " ".join(page[page.index("## Why does") : page.index("## Fewer steps")].split())
    spans = re.findall(r"`([^`]*)`", guide)
    quotes = [s for s in spans if len(re.findall(" [a-z]{2,}", s)) >= 3 and s[:8] != "spikerl "]
    assert len(quotes) >= 15
    words = said_in("report.py", "tables.py", "hardware.py", "metrics.py", "statistics.py")
    words += said_in("conversion/*.py")
    for quote in quotes:
        pieces = re.split(FILLED_IN, quote)
        for piece in (part.removeprefix("warning: ").strip(" :;,%()") for part in pieces):
            assert len(piece) < 6 or any(piece in text for text in words), (quote, piece)


def test_the_citation_is_of_this_version():
    entry = yaml.safe_load((ROOT / "spikerl" / "CITATION.cff").read_text("utf-8"))
    assert entry["version"] == spikerl.__version__
    assert entry["cff-version"] == "1.2.0"
    assert (entry["title"], entry["license"]) == ("spikerl", "MIT")
    assert all(entry[name] for name in ("message", "authors"))


def test_the_ci_script_runs_the_test_command_of_the_readme():
    (command,) = [line for line in COMMANDS if line.startswith("python -m pytest")]
    assert command in (ROOT / ".ci" / "run").read_text()
