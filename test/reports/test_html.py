"""A report is one page that loads nothing, shows what it was given, and lets no text of its data become markup."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree

import cv2
import jinja2
import numpy as np
import pytest

from transkd_ros.reports import html


def test_pictures_and_plots_are_inside_the_page():
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:, 15:] = (250, 10, 10)
    uri = html.picture(rgb)
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_allclose(decoded[10, [3, 27]], rgb[10, [3, 27]], atol=12)

    made, axes = html.axes(3, 2)
    axes.plot([1, 2], [3, 4])
    svg = html.figure(made)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    links = re.findall(r'(?:href|src)="([^"]*)"', svg)
    assert all(link.startswith("#") for link in links)


def test_the_same_plot_gives_the_same_bytes():
    def plot():
        made, axes = html.axes(3, 2)
        axes.hist([1, 2, 2, 3])
        return html.figure(made)

    assert plot() == plot()


def test_plots_leave_the_settings_of_matplotlib_as_they_were():
    import matplotlib

    matplotlib.get_backend()  # sets itself when it is first asked for
    before = matplotlib.rcParams.copy()
    html.figure(html.axes(3, 2)[0])
    assert matplotlib.rcParams == before


def test_texts_from_bags_and_bundles_cannot_become_markup(tmp_path, monkeypatch):
    (tmp_path / "x.html.j2").write_text("<p>{{ name }}</p>")
    monkeypatch.setattr(html, "_TEMPLATES", tmp_path)
    assert html.render("x.html.j2", name="<script>") == "<p>&lt;script&gt;</p>"


def test_a_value_that_the_template_lacks_is_an_error_and_not_a_gap(tmp_path, monkeypatch):
    (tmp_path / "x.html.j2").write_text("{{ forgotten }}")
    monkeypatch.setattr(html, "_TEMPLATES", tmp_path)
    with pytest.raises(jinja2.UndefinedError, match="forgotten"):
        html.render("x.html.j2")


def test_numbers_are_shown_as_a_table_wants_them():
    assert [html.percent(0.7274), html.percent(0.7274, 2), html.number(3.14159, 3)] == ["72.7", "72.74", "3.142"]
    assert html.percent(None) == html.number(float("nan")) == html.count(None) == "–"
    assert html.count(1234567) == "1\N{NO-BREAK SPACE}234\N{NO-BREAK SPACE}567"
