"""The page of manipulate.py --html, opened from disk in a real Chromium that has no network."""

import base64
import io
import shutil
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import manipulate
from vae import open_run
from vae.errors import UserError
from vae.latent.prior import Mixture
from vae.models.build import build
from vae.models.refiner import Refiner, refine
from vae.pictures.images import to_uint8
from vae.pictures.page.write import PageContent, pack, render_page, unit_probes, write_page

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
NAMES = ("Smiling", "Eyeglasses", "Wearing_Hat", "</script><b>", "Grey_Hair & beard=1")
SIZE, LATENT = 32, 5

DRAW_CODES = """async (states) => {
    const drawn = [];
    for (const state of states) {
        await restore(state);
        const { data } = after.pixels.getImageData(0, 0, SIZE, SIZE);
        let text = "";
        for (let i = 0; i < data.length; i++) text += String.fromCharCode(data[i]);
        drawn.push(btoa(text));
    }
    return drawn;
}"""
"""takes states as text; returns the pixels on the canvas of each, RGBA in base64"""


@pytest.fixture(scope="module")
def browser():
    """Return the system's Chromium, as playwright drives it; skip the test where it is not."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page is tested with playwright: requirements-dev.txt"
    )
    paths = [found for name in BROWSERS if (found := shutil.which(name))]
    if not paths:
        pytest.skip("the page is tested in a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"{paths[0]} does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens a file; nothing may go wrong, nor over a network."""
    contexts, faults = [], []

    def visit(path, code="", **options):
        contexts.append(browser.new_context(offline=True, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: faults.append(message.text))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        asked = []
        tab.goto(path.absolute().as_uri() + code)
        tab.evaluate("() => draw()")
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def make_content(architecture="skip", channels=(4, 6), faces=8, refiner=False, **changes):
    """Return what a page of a random small network shows; its faces differ clearly."""
    torch.manual_seed(7)
    arguments = {"image_size": SIZE, "channels": list(channels), "latent_dim": LATENT}
    model = build({"architecture": architecture, **arguments})
    for layer in (model.fc_decode, *(one for one in model.decoder if hasattr(one, "weight"))):
        layer.weight.data.mul_(2 if architecture == "listed" else 1)
        nn.init.normal_(layer.bias, std=0.2)
    if architecture == "skip":
        nn.init.normal_(model.skip_decode.weight, std=0.06)
        nn.init.uniform_(model.skip_decode.bias)
    factors = torch.randn(2, LATENT, LATENT).tril() / 2 + torch.eye(LATENT)
    content = {
        "model": model,
        "prior": Mixture(
            torch.tensor([0.3, 0.7]), 2 * torch.randn(2, LATENT), factors @ factors.mT
        ),
        "temperature": 1.0,
        "faces": torch.randn(faces, LATENT),
        "labels": [str(number) for number in range(faces)],
        "directions": {name: torch.randn(LATENT) / 3 for name in NAMES},
        "first": NAMES[:2],
        "probes": {name: torch.randn(LATENT) for name in NAMES},
        "mean": torch.randn(LATENT),
        "about": {
            "checkpoint": "runs/best.pt",
            "epoch": 3,
            "faces": 1234,
            "method": "mean",
            "real": False,
        },
        "refiner": make_refiner() if refiner else None,
        "refine_steps": 1,
        "refine_strength": 1.0,
    }
    return PageContent(**(content | changes))


def make_refiner():
    """Return a random refiner whose weights the 8 bits of a page hold exactly."""
    refiner = Refiner(SIZE, (8, 16, 24), noise=0.4, residual=0.4)
    linear = {f"{name}.weight" for name, one in refiner.named_modules() if type(one) is nn.Linear}
    for name, weight in refiner.named_parameters():
        steps = torch.randint(-126, 127, weight.shape).float()
        if weight.dim() > 1:
            # the largest of a row, or of the weights of an input, is the scale times 127
            (steps.T if name in linear else steps.flatten(1))[:, 0] = 127
        weight.data = steps / 512
    return refiner


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a page of a small network, and what it shows."""
    path, content = tmp_path_factory.mktemp("page") / "faces.html", make_content()
    write_page(path, content)
    return path, content


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Return a page of a small network with a refiner, and what it shows."""
    path, content = tmp_path_factory.mktemp("page") / "faces.html", make_content(refiner=True)
    write_page(path, content)
    return path, content


def draw_states(tab, states):
    """Return the pixels on the canvas in each state, (N, S, S, 3)."""
    drawn = [
        np.frombuffer(base64.b64decode(one), np.uint8) for one in tab.evaluate(DRAW_CODES, states)
    ]
    side = round((drawn[0].size / 4) ** 0.5)
    pixels = np.stack(drawn).reshape(-1, side, side, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def decode(model, z):
    with torch.no_grad():
        return model.eval().decode(z).clamp(0, 1)


def random_edits(content, count, seed=0):
    """Return states of faces 0 to count, as text, each with three edits; and their codes."""
    rng, names = np.random.default_rng(seed), list(content.directions)
    states, z = [], content.faces[:count].clone()
    for face in range(count):
        state = {"from": f"face-{face}"}
        for name in rng.choice(names, 3, replace=False):
            strength = round(float(rng.integers(-60, 61)) * 0.05, 2)
            state[name] = strength
            z[face] += strength * content.directions[name]
        states.append(state)
    return states, z


def largest_difference(pixels, x):
    return np.abs(pixels.astype(int) - to_uint8(x)).max()


@pytest.mark.parametrize(
    ("bits", "bound", "architecture", "channels"),
    [
        (16, 2, "skip", (4, 6)),
        (16, 2, "listed", (3, 5, 7, 6, 4)),
        (8, 4, "skip", (4, 6)),
        (8, 4, "listed", (8,)),
    ],
)
def test_the_page_decodes_as_pytorch_does(visit, tmp_path, bits, bound, architecture, channels):
    content = make_content(architecture, channels, faces=64)
    path = tmp_path / "faces.html"
    path.write_text(render_page(content, bits))
    tab = visit(path)
    plain = draw_states(tab, [f"from=face-{face}" for face in range(64)])
    states, z = random_edits(content, 64)
    edited = draw_states(tab, [urlencode(state) for state in states])
    x, x_edited = decode(content.model, content.faces), decode(content.model, z)
    assert to_uint8(x).std() > 10
    assert np.abs(to_uint8(x).astype(int) - to_uint8(x_edited)).mean() > 3
    assert largest_difference(plain, x) <= bound
    assert largest_difference(edited, x_edited) <= bound


def test_the_pretrained_page_decodes_as_pytorch_does_and_is_small(visit, tmp_path):
    path = tmp_path / "faces.html"
    flags = ["--checkpoint", "pretrained", "--html", str(path), "--device", "cpu"]
    assert manipulate.main(flags) == 0
    assert path.stat().st_size < 16e6
    assert manipulate.main([*flags, "--no-refine", "--faces", *map(str, range(64))]) == 0
    assert path.stat().st_size < 10e6
    run = open_run("pretrained", "cpu")
    z = run.sample(0, range(64))
    rng, edited, states = np.random.default_rng(1), z.clone(), []
    for face in range(64):
        name, strength = str(rng.choice(run.attribute_names)), round(rng.uniform(-3, 3), 2)
        edited[face] += strength * run.direction("Smiling") + 1.5 * run.direction(name)
        states.append({"from": f"face-{face}"} | {"Smiling": strength} | {name: 1.5})
        if name == "Smiling":
            edited[face] = z[face] + 1.5 * run.direction("Smiling")
    tab = visit(path)
    plain = draw_states(tab, [f"from=face-{face}" for face in range(64)])
    assert largest_difference(plain, run.decode(z)) <= 2
    shown = draw_states(tab, [urlencode(state) for state in states])
    assert largest_difference(shown, run.decode(edited)) <= 2
    # the canvas that is seen shows the last one, enlarged
    enlarged = enlarged_on(tab)[..., :3].reshape(64, 10, 64, 10, 3).mean((1, 3))
    assert np.abs(enlarged - shown[-1]).mean() < 3


def test_a_morph_moves_on_the_line_between_two_codes(visit, small):
    path, content = small
    z = torch.lerp(content.faces[2], content.faces[5], 0.25)[None]
    shown = draw_states(visit(path), ["from=face-2&to=face-5&mix=0.25"])
    assert largest_difference(shown, decode(content.model, z)) <= 2


def test_the_page_refines_as_pytorch_does(visit, refined):
    path, content = refined
    x_hat = decode(content.model, content.faces[:1])
    noise = torch.randn(x_hat.shape, generator=torch.Generator().manual_seed(3))
    image, eps = (t.flatten().tolist() for t in (x_hat, noise))
    shown = visit(path).evaluate(
        """async ([image, noise]) => {
            const task = { image: new Float32Array(image), noise: new Float32Array(noise) };
            const refiner = new NetworkWorker("refiner");
            return [...(await refiner.ask({ ...task, steps: 3, strength: 0.7 })).image];
        }""",
        [image, eps],
    )
    expected = refine(content.refiner.eval(), x_hat, noise, steps=3, strength=0.7)
    assert (expected - x_hat).abs().mean() > 0.05
    assert 255 * np.abs(np.array(shown) - expected.flatten().numpy()).max() < 0.05


def test_new_faces_are_samples_of_the_prior(visit, small):
    path, content = small
    tab = visit(path)
    drawn = tab.evaluate("Array.from({ length: 8000 }, (_, seed) => [...sampleCode(seed)])")
    again = tab.evaluate("[...sampleCode(17)]")
    z, prior = np.array(drawn), content.prior
    weights = prior.weights[:, None]
    mean = (weights * prior.means).sum(0)
    centred = prior.means - mean
    covariance = (weights[:, :, None] * prior.covariances).sum(0) + (weights * centred).T @ centred
    assert drawn[17] == again
    std = covariance.diagonal().sqrt().numpy()
    np.testing.assert_allclose(z.mean(0) / std, mean.numpy() / std, atol=0.06)
    scale = std[:, None] * std
    np.testing.assert_allclose(np.cov(z.T) / scale, covariance.numpy() / scale, atol=0.1)


def test_the_mark_says_where_the_code_lies_among_the_training_codes(visit, small):
    path, content = small
    score = visit(path).evaluate('scoreOf(codeOf("face-3"), 1)')
    expected = content.probes[NAMES[1]] @ (content.faces[3] - content.mean)
    assert score == pytest.approx(expected.item(), abs=1e-4)


def test_scores_of_the_training_codes_have_unit_variance():
    codes = torch.randn(500, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    probes = torch.randn(3, 4, dtype=torch.float64)
    units = unit_probes(probes, torch.cov(codes.T).float())
    variances = (codes @ units.double().T).var(0)
    torch.testing.assert_close(variances, torch.ones(3).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_visitor_changes_keeps_and_restores_a_face(visit, small, tmp_path, device):
    path, content = small
    tab = visit(path, **device)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert largest_difference(shown_on(tab), decode(content.model, content.faces[:1])) <= 2

    # drag the slider of the first attribute to its right end
    slider = tab.get_by_role("slider", name="Smiling")
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=5)
    tab.mouse.move(box["x"] + box["width"] + 5, middle)
    tab.mouse.up()
    assert slider.input_value() == "3"

    # find another by typing, and change it with the keyboard
    hat = tab.get_by_role("slider", name="Wearing Hat")
    assert not hat.is_visible()
    tab.get_by_role("searchbox", name="Find another attribute").fill("hat")
    tab.keyboard.press("Enter")
    for _ in range(4):
        tab.keyboard.press("ArrowLeft")
    assert hat.input_value() == "-0.2"
    assert hat.get_attribute("aria-valuetext") == "\u22120.20"
    tab.evaluate("() => draw()")
    edited = content.faces[0] + 3 * content.directions["Smiling"]
    edited = edited - 0.2 * content.directions["Wearing_Hat"]
    assert largest_difference(shown_on(tab), decode(content.model, edited[None])) <= 2
    said = "The face with Smiling +3.00, Wearing Hat \u22120.20"
    assert tab.get_by_role("img", name=said).is_visible()

    # save it: the picture is what the canvas shows
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Save PNG").click()
    saved.value.save_as(tmp_path / "face.png")
    with Image.open(tmp_path / "face.png") as picture:
        assert picture.size == (640, 640)
        assert (np.asarray(picture) == enlarged_on(tab)).all()

    # its code restores it in another visit
    code = tab.get_by_role("textbox", name="Code of this face").input_value()
    assert code == "from=face-0&Smiling=3&Wearing_Hat=-0.2"
    assert tab.evaluate("location.hash") == f"#{code}"
    assert (shown_on(visit(path, f"#{code}", **device)) == shown_on(tab)).all()

    # a new face keeps the edits; back brings the last one; reset takes the edits away
    before = shown_on(tab)
    tab.get_by_role("button", name="New face").click()
    assert tab.evaluate("state.from").startswith("new-")
    assert slider.input_value() == "3"
    tab.go_back()
    assert (shown_on(tab) == before).all()
    tab.get_by_role("button", name="Reset").click()
    assert slider.input_value() == "0"
    assert largest_difference(shown_on(tab), decode(content.model, content.faces[:1])) <= 2


def shown_on(tab, picture="after"):
    """Return the pixels on a canvas of the page, when it is drawn, (1, S, S, 3)."""
    shown = tab.evaluate(
        """async (name) => {
            await draw();
            const pixels = { after, before }[name].pixels;
            return [...pixels.getImageData(0, 0, SIZE, SIZE).data];
        }""",
        picture,
    )
    return np.array(shown, np.uint8).reshape(1, SIZE, SIZE, 4)[..., :3]


def enlarged_on(tab):
    """Return the pixels of the canvas that is seen, RGBA."""
    content = tab.evaluate("after.canvas.toDataURL()").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        return np.asarray(picture)


def test_touch_chooses_a_face_a_target_and_the_original_beside(visit, small):
    path, content = small
    tab = visit(path, **PHONE)
    tab.get_by_role("button", name="Face 4").first.tap()
    tab.get_by_text("Morph into another face").tap()
    tab.locator("#target").get_by_role("button", name="Face 1").tap()
    tab.get_by_text("Original beside").tap()
    tab.get_by_role("slider", name="Eyeglasses").tap(position={"x": 5, "y": 20})
    assert tab.evaluate("state.mix") == 0.5
    z = torch.lerp(content.faces[4], content.faces[1], 0.5)
    strength = tab.evaluate("state.strengths.Eyeglasses")
    assert strength < -2.5
    edited = z + strength * content.directions["Eyeglasses"]
    assert largest_difference(shown_on(tab, "before"), decode(content.model, z[None])) <= 2
    assert largest_difference(shown_on(tab), decode(content.model, edited[None])) <= 2
    # the same target again gives the morph up
    tab.locator("#target").get_by_role("button", name="Face 1").tap()
    assert tab.evaluate("state.to") is None


def test_on_a_phone_the_face_stays_in_view_above_the_last_slider(visit, small):
    tab = visit(small[0], **PHONE)
    tab.get_by_role("button", name="Show all 5").tap()
    last = tab.locator("#others .row").last
    last.scroll_into_view_if_needed()
    tab.evaluate("scrollBy(0, 200)")
    face = tab.locator("#after canvas").bounding_box()
    assert face["y"] >= 0
    assert face["y"] + face["height"] < 500
    heights = tab.evaluate(
        """[...document.querySelectorAll("button:not(.value), input:not([role]), summary, .switch")]
            .map((one) => one.getBoundingClientRect().height).filter(Boolean)"""
    )
    assert min(heights) >= 44


def test_a_face_is_refined_unless_told_not_to(visit, refined):
    path, content = refined
    plain = to_uint8(decode(content.model, content.faces[:1]))
    tab = visit(path)
    shown = """(wanted) => new Promise((done, fail) => {
        const look = () => (wanted() ? done([...after.pixels.getImageData(0, 0, SIZE, SIZE).data])
            : setTimeout(look, 5));
        setTimeout(() => fail("nothing was drawn"), 20000);
        look();
    })"""
    pixels = tab.evaluate(f"({shown})(() => after.image && after.refined === after.image)")
    assert np.abs(as_faces(pixels).astype(int) - plain).mean() > 2
    painted = tab.evaluate("after.painted")
    tab.get_by_role("switch", name="Refine").uncheck()
    pixels = tab.evaluate(f"({shown})(() => after.painted > {painted})")
    assert np.abs(as_faces(pixels).astype(int) - plain).max() <= 2


def as_faces(pixels):
    """Return the values of a canvas as pixels (1, S, S, 3)."""
    return np.array(pixels, np.uint8).reshape(1, SIZE, SIZE, 4)[..., :3]


def test_a_code_that_cannot_be_read_changes_nothing(visit, small):
    tab = visit(small[0], "#from=face-99&to=nobody&mix=NaN&Smiling=1e9&Eyeglasses=x&Unknown=1&%")
    state = tab.evaluate("state")
    assert state == {"from": "face-0", "to": None, "mix": 0, "strengths": {"Smiling": 3}}


def test_a_page_that_cannot_draw_says_so(browser, small, tmp_path):
    damaged = small[0].read_text().replace('id="decoder">', 'id="decoder">!')
    (tmp_path / "faces.html").write_text(damaged)
    with browser.new_context(offline=True) as context:
        tab = context.new_page()
        tab.goto((tmp_path / "faces.html").as_uri())
        tab.get_by_text("The face cannot be drawn here").wait_for()


def test_names_of_attributes_are_text_and_nothing_else(visit, small):
    path, content = small
    states, z = [{"from": "face-1", NAMES[3]: 1.5, NAMES[4]: -1}], content.faces[1:2].clone()
    z += 1.5 * content.directions[NAMES[3]] - content.directions[NAMES[4]]
    tab = visit(path)
    shown = draw_states(tab, [urlencode(state) for state in states])
    assert largest_difference(shown, decode(content.model, z)) <= 2
    assert tab.get_by_role("slider", name="</script><b>").is_visible()
    assert (draw_states(tab, [tab.evaluate("writeCode(state)")]) == shown).all()


def test_a_model_without_attributes_gives_a_page_without_sliders(visit, tmp_path):
    content = make_content(directions={}, probes={}, first=())
    write_page(tmp_path / "faces.html", content)
    tab = visit(tmp_path / "faces.html")
    assert not tab.get_by_text("Change", exact=True).is_visible()
    assert largest_difference(shown_on(tab), decode(content.model, content.faces[:1])) <= 2


def test_packed_tensors_are_aligned_and_near_to_what_they_were():
    tensors = {"odd": torch.randn(3), "matrix": torch.randn(4, 3, 5, 1) * torch.rand(4, 1, 1, 1)}
    for bits, close in ((32, 0), (16, 1e-3), (8, 1e-2)):
        toc, packed = pack(tensors, bits)
        assert [entry["start"] % 4 for entry in toc] == [0, 0]
        start = toc[1]["start"]
        if bits == 8:
            scales = np.frombuffer(packed, np.float32, 4, start)
            rows = np.frombuffer(packed, np.int8, 60, start + 16).reshape(4, 15)
            values = scales[:, None] * rows
        else:
            values = np.frombuffer(packed, {32: np.float32, 16: np.float16}[bits], 60, start)
        largest = tensors["matrix"].flatten(1).abs().amax(1, keepdim=True).numpy()
        error = np.abs(values.reshape(4, 15) - tensors["matrix"].flatten(1).numpy())
        assert (error <= close * largest).all()


def test_a_large_model_gets_weights_of_8_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("vae.pictures.page.write.LARGEST", 100_000)
    assert "weights of 8 bits" in write_page(tmp_path / "faces.html", make_content())


def test_an_architecture_that_the_page_cannot_draw_is_refused(tmp_path):
    content = make_content()
    content.model.arch["architecture"] = "cubist"
    with pytest.raises(UserError, match="cubist"):
        write_page(tmp_path / "faces.html", content)
    assert not (tmp_path / "faces.html").exists()


def test_the_page_names_no_address(small):
    page = small[0].read_text()
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page


def test_manipulate_writes_a_page_of_a_run(home, tmp_path, capsys):
    path = tmp_path / "deep" / "faces.html"
    flags = ["--checkpoint", "runs/celeba-32", "--html", str(path), "--device", "cpu"]
    assert manipulate.main([*flags, "--source", "val", "--faces", "1", "4"]) == 0
    assert f"{path} (0.1 MB, weights of 16 bits)" in capsys.readouterr().out
    page = path.read_text()
    assert '"labels": ["1", "4"]' in page
    assert '"checkpoint": "celeba-32/best.pt"' in page
    assert '"real": true' in page
    assert str(home) not in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--html", "faces.png"], "--html must end in .html"),
        (["--html", "faces.html", "--strengths", "1"], "--strengths"),
        (["--html", "faces.html", "--keep", "Male", "--gif"], "--keep and --gif"),
    ],
)
def test_flags_of_pictures_are_refused_beside_a_page(capsys, flags, said):
    assert manipulate.main(["--checkpoint", "pretrained", *flags]) == 2
    assert said in capsys.readouterr().err
