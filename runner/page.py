"""ComfyUI's own page in Chromium or Chrome, without a window, driven by Selenium (`pip install selenium`)."""

from __future__ import annotations

import json
import shutil

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.ui import WebDriverWait

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # on the PATH; elsewhere Selenium looks for Chrome
READY = "return Boolean(window.app?.vueAppReady && window.app.extensionManager.workflow.activeWorkflow)"


def open_page(address: str, width: int = 2000, height: int = 900, stored: dict[str, str] | None = None) -> webdriver.Chrome:
    """The page at this address, open and ready to take a graph.

    width, height: of the window, in pixels. stored: what the page is to find in its local storage.
    What the page's console says is kept for get_log("browser"). Raises RuntimeError where no browser starts."""
    options = webdriver.ChromeOptions()
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "mute-audio", f"window-size={width},{height}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)), "")
    driver = shutil.which("chromedriver")  # the one of the system's Chromium; else Selenium downloads one
    try:
        page = webdriver.Chrome(options, webdriver.ChromeService(driver) if driver else None)
    except WebDriverException as error:
        raise RuntimeError(f"No Chromium or Chrome starts here; install one of them and try again. ({error.msg})") from error
    try:
        page.set_script_timeout(120)
        store = f"Object.assign(localStorage, {json.dumps(stored or {})})"
        page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": store})
        page.get(address)
        WebDriverWait(page, 120, 0.2).until(lambda page: page.execute_script(READY), "ComfyUI's page was not ready within 2 minutes")
    except BaseException:
        page.quit()
        raise
    return page
