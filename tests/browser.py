"""A page in a real browser, without a network: what it shows, what it says to the console, what a click does."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

# Errors are caught from the first line of the page on; `steps` run once it is there, and their value comes back.
_WATCH = "<script>window.faults = []; addEventListener('error', (event) => faults.push(event.message));</script>"
_STEPS = """<script>addEventListener('load', () => {
  const told = document.createElement('pre');
  let value = null;
  try { value = (() => { %s })(); } catch (error) { faults.push(String(error)); }
  told.id = 'told';
  told.textContent = btoa(unescape(encodeURIComponent(JSON.stringify({ value, faults }))));
  document.body.append(told);
});</script>"""


def ask(page: Path, steps: str, *, address: str = "", width: int = 1200) -> Any:
    """What `steps`, the body of a JavaScript function, returns on the page; fails on any error of its scripts."""
    text = page.read_text(encoding="utf-8")
    probe = page.with_name(f"{page.stem}-probe.html")
    probe.write_text(text.replace("<head>", f"<head>{_WATCH}", 1).replace("</body>", _STEPS % steps + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    options += [f"--window-size={width},900", "--lang=en", f"--user-data-dir={page.with_name('profile')}"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", f"{probe.as_uri()}#{address}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert not (said := [line for line in done.stderr.splitlines() if "CONSOLE" in line]), said
    told = re.search(r'<pre id="told">([^<]*)</pre>', done.stdout)
    assert told is not None, done.stdout[-2000:]
    answer = json.loads(base64.b64decode(told[1]))
    assert answer["faults"] == []
    return answer["value"]
