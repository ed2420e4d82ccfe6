"""A tab of a browser with a report in it."""

from __future__ import annotations


class Page:
    """A tab with a report in it, and all that it complained of."""

    def __init__(self, browser, address, **context):
        self.tab = browser.new_context(viewport={"width": 1200, "height": 900}, **context).new_page()
        self.complaints: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.requests: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.set_default_timeout(60_000)
        self.open(address)

    def open(self, address):
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]", state="attached")

    def show_all(self):
        """Draws every part, opens everything that is folded, asks every check."""
        self.tab.evaluate("document.querySelectorAll('#figures > section').forEach((section) => section.fill?.())")
        self.tab.wait_for_timeout(200)  # a frame, until a chart has its width
        self.tab.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
        self.tab.evaluate("document.querySelectorAll('.matrix button').forEach((button) => button.click())")
        self.tab.wait_for_timeout(200)

    def column(self, field):
        """The texts of a column, from the top."""
        return self.tab.eval_on_selector_all(
            f'#table .tabulator-cell[tabulator-field="{field}"]', "(cells) => cells.map((cell) => cell.textContent)"
        )

    def filter(self, heading, text):
        box = self.tab.get_by_role("searchbox", name=f"filter {heading}")
        box.press("Control+a")
        box.press("Delete")
        box.press_sequentially(text)
        self.tab.wait_for_timeout(700)  # Tabulator waits for more letters

    def count(self):
        return self.tab.text_content("#count")
