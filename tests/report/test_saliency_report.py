import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from builders import SHAPE, measured, saliency_of
from PIL import Image

from autoreap.candidate import Candidate
from autoreap.report.saliency_page import plot_saliency, write_saliency_page
from autoreap.saliency import ComponentSaliency, Saliency

VALUES = Candidate(retention=0.5)


def saliency(components: Mapping[str, ComponentSaliency] | None = None, *, model: str = "test/model") -> Saliency:
    measured_all = saliency_of(SHAPE)
    return Saliency(components or measured_all.components, {**measured_all.provenance, "model": model})


def only(component: ComponentSaliency, *modalities: str) -> ComponentSaliency:
    return replace(component, modalities={name: component.modalities[name] for name in modalities})


def page_of(measured_all: Saliency, path: Path, *components: str) -> str:
    write_saliency_page(measured_all, components or ("thinker",), VALUES, path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two decoders with the same measurements, of a model whose name looks like markup."""
    same = saliency({"thinker": measured(8, 8), "talker": measured(8, 8)}, model="<b>&bold")
    return page_of(same, tmp_path_factory.mktemp("pages") / "new" / "page.html", "thinker", "talker")


def pictures(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


@pytest.mark.slow
def test_the_png_grows_with_the_components_and_shows_more_than_its_background(tmp_path: Path) -> None:
    heights = []
    for names in (["thinker"], ["thinker", "talker"]):
        plot_saliency(saliency(), names, VALUES, tmp_path / "new" / "saliency.png")
        with Image.open(tmp_path / "new" / "saliency.png") as image:
            assert image.format == "PNG"
            assert len(image.convert("RGB").getcolors(maxcolors=image.width * image.height) or ()) > 100
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]


def test_a_png_is_written_whatever_the_name_ends_in(tmp_path: Path) -> None:
    plot_saliency(saliency(), ["thinker"], VALUES, tmp_path / "picture.of.it")
    with Image.open(tmp_path / "picture.of.it") as image:
        assert image.format == "PNG"


@pytest.mark.slow
def test_each_picture_of_the_page_is_well_formed_and_has_its_sentence(page: str) -> None:
    assert len(pictures(page)) == 8
    for picture in pictures(page):
        ElementTree.fromstring(picture)
    captions = re.findall(r"</svg>\s*<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 8
    assert all(caption.endswith(".") for caption in captions)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    links = re.findall(r'(?:src|href)="(.*?)"', page, re.DOTALL)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|<script|<link|url\((?!#)", page)


def test_no_two_pictures_share_an_id_that_is_referred_to(page: str) -> None:
    referred = [set(re.findall(r'(?:url\(|href=")#(\w+)', picture)) for picture in pictures(page)]
    assert len(set().union(*referred)) == sum(map(len, referred)) > 0


def test_the_text_of_the_pictures_has_the_colour_of_the_page_light_or_dark(page: str) -> None:
    assert "color-scheme: light dark" in page
    assert "#010203" not in page
    for picture in pictures(page):
        assert "currentColor" in picture
        assert not re.search(r"fill: #(?:000000|ffffff)[^>]*>\s*<title>", picture)
        words = re.findall(r"<text style=\"([^\"]*)\"[^>]*>layer</text>", picture)
        assert all("fill: currentColor" in style for style in words)


@pytest.mark.slow
def test_the_same_file_makes_the_same_page(tmp_path: Path) -> None:
    assert page_of(saliency(), tmp_path / "one.html") == page_of(saliency(), tmp_path / "two.html")


@pytest.mark.parametrize(
    ("modalities", "not_measured", "lambda_moves"),
    [(("audio", "video", "mixed"), 0, True), (("audio", "mixed"), 1, True), (("audio",), 2, False)],
)
@pytest.mark.slow
def test_a_modality_that_is_missing_is_said_to_be(
    modalities: tuple[str, ...], not_measured: int, lambda_moves: bool, tmp_path: Path
) -> None:
    page = page_of(saliency({"thinker": only(measured(8, 8), *modalities)}), tmp_path / "page.html")
    assert page.count(">not measured</text>") == not_measured
    assert ("not measured: without mixed data lambda and beta move nothing" not in page) == lambda_moves


def test_the_talkers_page_says_that_lambda_and_beta_move_nothing(page: str) -> None:
    assert page.count("the talker is ranked by audio alone: lambda and beta move nothing") == 1


def test_names_are_text_and_never_markup(page: str) -> None:
    assert "<b>" not in page
    assert "saliency of &lt;b&gt;&amp;bold" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "component",
    [
        measured(1, 1),
        measured(2, 3, num_spans=2),
        only(measured(3, 2), "audio"),
        replace(measured(4, 4), layer_cosine=np.ones((2, 4))),  # layers that change nothing
        replace(measured(4, 4), layer_cosine=np.full((2, 4), np.nan)),
        replace(
            measured(4, 4),
            modalities={
                name: replace(sums, gate_norm_sum=np.zeros((4, 4)), routed_tokens=np.zeros((4, 4), dtype=np.int64))
                for name, sums in measured(4, 4).modalities.items()
            },
        ),
    ],
    ids=["one expert", "all protected", "audio alone", "no change", "no cosine", "nothing routed"],
)
@pytest.mark.filterwarnings("error")
def test_what_is_small_or_empty_is_drawn_too(component: ComponentSaliency, tmp_path: Path) -> None:
    odd = saliency({"thinker": component})
    plot_saliency(odd, ["thinker"], VALUES, tmp_path / "picture.png")
    assert len(pictures(page_of(odd, tmp_path / "page.html"))) == 4
