"""The documentation holds together: its links lead somewhere, its blocks are of known kinds."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, blocks, headings, name, pages

LANGUAGES = {"sh", "yaml", "python", "text", "c", "ini"}
FOREIGN = re.compile(r"(?<![\w.:])/(work|root|home)/")


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_to_pages_and_headings_that_exist(page):
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, fragment = target.partition("#")
        if "://" in target:
            continue
        to = (page.parent / path).resolve() if path else page
        found = to.exists()
        if found and fragment:
            found = fragment in {anchor(heading) for heading in headings(to)}
        if not found:
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_blocks_say_what_language_they_are_in(page):
    unknown = [(b.line, b.language) for b in blocks(page) if b.language not in LANGUAGES]
    assert unknown == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_pages_name_no_path_of_one_machine(page):
    assert FOREIGN.findall(page.read_text()) == []


def test_every_page_is_reachable_from_the_index():
    seen = set()
    waiting = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text()):
            to = (page.parent / target).resolve()
            if "://" not in target and to.suffix == ".md" and to.exists():
                waiting.append(to)
    assert [name(page) for page in pages() if page not in seen] == []
