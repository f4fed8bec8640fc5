"""decision.html in a real browser: it loads nothing, complains of nothing, and shows its names."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from support import exhibits

from hpo.promotion.report.render import as_html

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: Debian's package `chromium`"
)
PAGES = {"kept": lambda: exhibits.exhibit("kept"), "first": exhibits.first_champion}
OWN = {"/page.html", "/favicon.ico"}


@contextmanager
def served(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """A server of a folder: (its port, every path that it is asked for)."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            asked.append(self.path)
            return super().send_head()

        def log_message(self, *_: object) -> None:
            """Nothing: what is asked is in the list."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(folder: Path, page: str, *options: str) -> tuple[str, list[str], list[str]]:
    """Open a page: (its document, the paths it asked for, what its console says).

    Every name of the network leads to our own server, so that no request goes unseen.
    """
    (folder / "page.html").write_text(page, encoding="utf-8")
    with served(folder) as (port, asked):
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-features=NetworkTimeServiceQuerying",  # the browser asks for the time
                f"--user-data-dir={folder / 'browser'}", "--enable-logging=stderr",
                f"--host-resolver-rules=MAP * 127.0.0.1:{port}", *options,
                "http://a-page.example/page.html",
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [path for path in asked if path not in OWN], console


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_asks_for_nothing_and_complains_of_nothing(kind: str, tmp_path: Path) -> None:
    """No request beside the page itself, no message in the console, its headline is there."""
    document, asked, console = opened(tmp_path, as_html(PAGES[kind]()), "--dump-dom")
    assert (asked, console) == ([], [])
    assert document.count("<h1>") == 1
    assert "Names and fingerprints" in document
    assert "<script" not in document


def test_what_a_page_would_load_or_run_is_seen_here_and_stopped_by_its_policy(
    tmp_path: Path,
) -> None:
    """The test above can fail; and a name that slipped through would load and run nothing."""
    smuggled = '<img src="http://elsewhere.example/x.png"><script>document.title = "run"</script>'
    page = as_html(exhibits.nothing()).replace("<main>", f"<main>{smuggled}")
    document, asked, console = opened(tmp_path, page, "--dump-dom")
    assert asked == []
    assert len(console) >= 2
    assert "<title>run</title>" not in document
    bare = page.replace("Content-Security-Policy", "x-nothing")
    document, asked, _ = opened(tmp_path, bare, "--dump-dom")
    assert asked == ["/x.png"]
    assert "<title>run</title>" in document


def test_a_page_fits_a_phone(tmp_path: Path) -> None:
    """Tables scroll by themselves; the page does not."""
    (tmp_path / "inner.html").write_text(as_html(exhibits.exhibit()), encoding="utf-8")
    # Chromium's own windows are never as narrow as a phone
    outer = (
        '<!doctype html><title></title><iframe src="/inner.html" width="390" height="844" '
        'frameborder="0" onload="document.title = contentDocument.documentElement.scrollWidth">'
    )
    document, _, _ = opened(tmp_path, outer, "--dump-dom", "--hide-scrollbars")
    assert re.findall("<title>(.*?)</title>", document) == ["390"]


@pytest.mark.parametrize(("theme", "bright"), [(1, True), (0, False)], ids=["light", "dark"])
def test_the_page_follows_the_readers_theme(theme: int, *, bright: bool, tmp_path: Path) -> None:
    """Paper and ink change places."""
    picture = tmp_path / "page.png"
    opened(
        tmp_path, as_html(exhibits.nothing()), f"--screenshot={picture}", "--hide-scrollbars",
        "--window-size=800,900", f"--blink-settings=preferredColorScheme={theme}",
    )  # fmt: skip
    with Image.open(picture) as shot:
        levels = shot.convert("L").histogram()
    light, dark = sum(levels[200:]), sum(levels[:60])
    assert (light > 10 * dark) if bright else (dark > 10 * light)
