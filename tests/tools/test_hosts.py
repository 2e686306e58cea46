"""The table of ComfyUI versions, from pytest's reports."""

import xml.etree.ElementTree as ET

from tools.hosts import GROUPS, TABLE, VERSIONS, table_row, with_row

CASES = ET.fromstring("""
<testsuite>
    <testcase classname="tests.host.test_nodes" name="test_a"/>
    <testcase classname="tests.host.batches.test_layouts" name="test_b"/>
    <testcase classname="tests.host.test_nodes" name="test_vue_is_no_mode"><skipped message="no such node"/></testcase>
    <testcase classname="tests.browser.test_help" name="test_c[BLADE_Edit]"/>
    <testcase classname="tests.browser.test_run" name="test_d[vue]"><failure message="AssertionError: a | b &lt;i&gt;&#10;assert 1"/></testcase>
    <testcase classname="tests.browser.test_run" name="test_e[vue]"><error message="failed on setup"/></testcase>
</testsuite>
""")
ROW = (
    "| 0.30.1 | 1.47.2 | 3.12.1 | 2.13.0+cpu | 2 passed, 1 skipped | 1 passed | 2 failed | `test_vue_is_no_mode`: no such node<br>"
    "`test_d[vue]`: AssertionError: a \\| b &lt;i><br>`test_e[vue]`: failed on setup |"
)


def test_a_row_counts_by_group_and_tells_what_is_not_green():
    assert table_row(("0.30.1", "1.47.2", "3.12.1", "2.13.0+cpu"), CASES.iter("testcase")) == ROW


def test_a_group_of_which_nothing_ran_says_so_and_many_failures_are_counted():
    failures = [ET.fromstring(f"<testcase classname='tests.host.t' name='t{n}'><failure message='no'/></testcase>") for n in range(12)]
    row = table_row(("1.0.0",) * 4, failures)
    assert "| 12 failed | none ran | none ran |" in row and row.endswith("`t9`: no<br>and 2 more |")


def test_a_row_replaces_that_of_its_versions_and_stands_in_their_order():
    page = "# Head\n\n| a |\n|---|\n" + "\n".join(ROW.replace("0.30.1", v) for v in ("0.3.75", "0.33.0")) + "\n\nMore.\n"
    old = with_row(page, ROW)
    new = with_row(old, ROW.replace("2 failed", "2 passed").replace("+cpu", ""))
    assert [line.split(" | ")[0] for line in old.splitlines()[4:7]] == ["| 0.3.75", "| 0.30.1", "| 0.33.0"]
    assert new.count("0.30.1") == 1 and new.endswith("\n\nMore.\n") and "2 passed |" in new.splitlines()[5]


def test_the_page_has_the_table_s_columns():
    head = next(line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [*VERSIONS, *GROUPS, "not green, and why"]
