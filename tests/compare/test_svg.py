"""SVG charts: ticks, paths and markup."""

import pytest

from retrace.compare import svg
from retrace.compare.svg import Axis, Chart, Line, Marker


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        ([1, 5], {"integer": True}, ["1", "2", "3", "4", "5"]),
        ([1, 1], {"integer": True}, ["1"]),
        ([1, 1500], {"integer": True}, ["0", "500", "1,000", "1,500"]),
        ([0.98, 0.995], {"percent": True}, ["98.0%", "98.5%", "99.0%", "99.5%"]),
        ([0.001, 10], {"log": True}, ["0.001", "0.01", "0.1", "1", "10"]),
        ([0.02, 0.5], {"log": True}, ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        ([1e-9, 100], {"log": True}, ["1e-08", "1e-06", "0.0001", "0.01", "1", "100"]),
        ([0.5, 0.7], {"log": True}, ["0.50", "0.55", "0.60", "0.65", "0.70"]),
        ([0.0, 10], {"log": True}, ["0.0", "2.5", "5.0", "7.5", "10.0"]),
    ],
)
def test_ticks_are_round(values: list[float], kind: dict[str, bool], texts: list[str]) -> None:
    axis = svg.fit_axis(values, "", **kind)
    assert [text for _, text in axis.ticks] == texts
    assert all(0 <= position <= 1 for position, _ in axis.ticks)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.001, 1e6])
def test_axis_of_a_constant(value: float) -> None:
    axis = svg.fit_axis([value, value], "")
    assert len(axis.ticks) >= 3
    assert axis.positions([value])[0] == pytest.approx(0.5)


def test_axis_ends_at_most() -> None:
    assert svg.fit_axis([0.5, 1.0], "", most=1.0).high == 1.0
    assert svg.fit_axis([0.5, 1.0], "").high > 1.0


def test_path_visits_each_point_once() -> None:
    axis = Axis("", 0, 1)
    assert svg.path(axis, [0, 0.5, 0.50001, 1], axis, [0, 1, 1, 0.5]) == "M0 230L200 0L400 115"
    assert svg.path(axis, [0.5], axis, [0.5]) == "M200 115h0"


def test_stepped_path_keeps_its_height() -> None:
    axis = Axis("", 0, 1)
    line = svg.path(axis, [0, 0.5, 1], axis, [0, 1, 0.5], stepped=True)
    assert line == "M0 230H200V0H400V115"


def test_render_escapes_text() -> None:
    axis = Axis("<x>", 0, 1)
    line = Line("M0 0", 0, "<name>", markers=[Marker(1, 2, "<tip>")])
    markup = svg.render(Chart("title", '"><script>', axis, axis, [line]))
    assert "<script" not in markup
    for text in ("&lt;x&gt;", "&lt;name&gt;", "&lt;tip&gt;"):
        assert text in markup


def test_legend_only_with_names() -> None:
    axis = Axis("", 0, 1)
    for name, has_legend in (("one", True), ("", False)):
        markup = svg.render(Chart("", "", axis, axis, [Line("M0 0", 0, name)]))
        assert ("legend" in markup) == has_legend
