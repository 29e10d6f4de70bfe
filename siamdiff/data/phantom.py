"""Procedural endoscopy-like pairs of image and lesion mask: the data set that needs no download.

A scene is drawn in coordinates (x, y) in [-1, 1] x [-1, 1], independent of the pixel grid, so that one (seed, index)
is the same scene at every size. A height field (folds around a lumen, fine relief, dome-shaped lesions) is lit from
the tip of the endoscope; colour comes from a palette, patchy redness and branching vessels; wet highlights, the fall
of light with depth and the octagonal dark border of the field are laid on top.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

MIN_LESION_AREA = 0.015  # of the whole image, per lesion
MIN_SIZE = 16  # pixels; below it a lesion is no longer a shape

_MUCOSA = np.array(
    [[0.72, 0.36, 0.31], [0.75, 0.40, 0.29], [0.66, 0.30, 0.26], [0.76, 0.42, 0.38]], np.float32
)
# Lesions are paler than the mucosa: their brightness shows them at sizes and blurs where relief, texture and even hue
# are lost. Pinkish, cream and yellowish.
_LESION = np.array([[1.00, 0.72, 0.62], [1.00, 0.80, 0.66], [1.00, 0.80, 0.56]], np.float32)


@dataclass(frozen=True)
class _Lesion:
    """A polyp in scene coordinates: an ellipse whose outline is modulated by a few harmonics."""

    x: float
    y: float
    radius: float
    stretch: float  # ratio of the long axis to the radius; the short axis is radius / stretch
    angle: float
    harmonics: np.ndarray  # (3, 2) amplitude, phase of cos(k theta), k = 2, 3, 5
    height: float
    colour: np.ndarray  # (3,) linear albedo
    pits: float  # strength of the surface pattern

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Normalised distance from the centre: below 1 inside the lesion, 1 on its border."""
        dx, dy = x - self.x, y - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u = (cos * dx + sin * dy) / (self.radius * self.stretch)
        v = (cos * dy - sin * dx) / (self.radius / self.stretch)
        theta = np.arctan2(v, u)
        outline = 1.0 + sum(
            a * np.cos(k * theta + p) for k, (a, p) in zip((2, 3, 5), self.harmonics, strict=True)
        )
        return (np.hypot(u, v) / outline).astype(np.float32)


def render_phantom(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws pair `index` of the phantom set `seed`.

    Returns the image, uint8 (size, size, 3) RGB, and the lesion mask, uint8 (size, size) in {0, 255}. The same
    arguments give the same bytes; another `size` gives the same scene. Every lesion covers at least
    `MIN_LESION_AREA` of the image before lesions overlap or meet the border of the field.

    Raises ValueError where `size` is below `MIN_SIZE`, or `seed` or `index` is negative.
    """
    if size < MIN_SIZE or seed < 0 or index < 0:
        raise ValueError(
            f"seed {seed}, index {index}, size {size}: need seed, index >= 0 and size >= {MIN_SIZE}"
        )
    oversampling = 2 if size <= 192 else 1  # small images would alias the vessels and highlights
    grid = size * oversampling
    rng = np.random.default_rng([seed, index])
    axis = ((np.arange(grid, dtype=np.float32) + 0.5) * (2.0 / grid) - 1.0).astype(np.float32)
    x, y = np.broadcast_to(axis, (grid, grid)), np.broadcast_to(axis[:, None], (grid, grid))

    noise = {frequency: _noise(rng, axis, frequency) for frequency in (2, 5, 12, 30)}
    lesions = _place_lesions(rng)
    distances = [lesion.distance(x, y) for lesion in lesions]
    exposure, folds = _lumen(rng, x, y, noise)
    view = _field_of_view(rng, x, y)

    relief = folds + 0.012 * noise[5] + 0.005 * noise[12] + 0.0012 * noise[30]
    albedo = _mucosa(rng, axis, noise)
    for lesion, q in zip(lesions, distances, strict=True):
        relief, albedo, exposure = _add_lesion(lesion, q, relief, albedo, exposure, noise)
    image = _light(rng, x, y, relief, albedo, exposure, _noise(rng, axis, 45))

    inside = np.minimum.reduce(distances) < 1.0
    mask = _shrink((inside & (view > 0.5)).astype(np.float32), oversampling) >= 0.5
    image = _shrink(image * view[..., None], oversampling)
    image = image + rng.normal(0.0, 0.006, image.shape)
    return (255.0 * np.clip(image, 0.0, 1.0) + 0.5).astype(np.uint8), mask.astype(np.uint8) * 255


def _place_lesions(rng: np.random.Generator) -> list[_Lesion]:
    """One lesion, at times two or three smaller ones, with centres well inside the field and apart from each other."""
    count = int(rng.choice([1, 2, 3], p=[0.72, 0.22, 0.06]))
    lesions: list[_Lesion] = []
    while len(lesions) < count:
        radius = float(rng.uniform(0.24, 0.58) if count == 1 else rng.uniform(0.22, 0.36))
        reach = 0.78 - 0.6 * radius
        x, y = rng.uniform(-reach, reach, 2)
        if any(np.hypot(x - other.x, y - other.y) < radius + other.radius for other in lesions):
            count = count if rng.random() < 0.9 else len(lesions)  # a crowded scene settles for fewer
            continue
        amplitudes, phases = rng.uniform(0.0, [0.12, 0.08, 0.03]), rng.uniform(0.0, 2.0 * np.pi, 3)
        kind = (
            lesions[0].colour if lesions else _LESION[rng.integers(len(_LESION))]
        )  # one patient, one histology
        lesions.append(
            _Lesion(
                x=float(x),
                y=float(y),
                radius=radius,
                stretch=float(rng.uniform(1.0, 1.25)),
                angle=float(rng.uniform(0.0, np.pi)),
                harmonics=np.stack([amplitudes, phases], 1),
                height=float(rng.uniform(0.35, 0.6)) * radius,
                colour=np.clip(kind * rng.uniform(0.94, 1.06, 3), 0.0, 1.0).astype(np.float32),
                pits=float(rng.uniform(0.3, 1.0)),
            )
        )
    return lesions


def _lumen(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, noise: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Fall of light towards the lumen, in (0, 1], and the height of the folds that ring it, both (grid, grid)."""
    azimuth, eccentricity = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.35, 1.25)
    dx, dy = x - eccentricity * np.cos(azimuth), y - eccentricity * np.sin(azimuth)
    stretch = rng.uniform(0.8, 1.25)
    radius = np.hypot(dx * stretch, dy / stretch) * (1.0 + 0.10 * noise[2]) + 0.03 * noise[5]
    radius = np.maximum(radius, 0.02)
    mouth = rng.uniform(0.16, 0.34)
    depth = 0.10 + 0.90 / (1.0 + np.exp(-(radius - mouth) / (0.22 * mouth + 0.02)))
    depth *= 0.62 + 0.38 * np.clip(radius / (3.5 * mouth), 0.0, 1.0)
    phase = rng.uniform(4.5, 8.5) * np.log(radius + 0.12) + rng.uniform(0.0, 2.0 * np.pi) + 0.7 * noise[2]
    crest = (0.5 + 0.5 * np.cos(phase)) ** 3 * np.clip(radius, 0.3, 1.0)
    interrupted = np.clip(0.65 + 0.5 * noise[2], 0.15, 1.0)  # a fold does not run all the way round
    return depth.astype(np.float32), (rng.uniform(0.06, 0.14) * crest * interrupted).astype(np.float32)


def _field_of_view(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Visibility in [0, 1] (grid, grid): an image circle or octagon with a soft edge, black outside."""
    ax, ay = np.abs(x), np.abs(y)
    if rng.random() < 0.7:
        edge = np.maximum(np.maximum(ax, ay) - 1.02, (ax + ay - rng.uniform(1.38, 1.62)) / np.sqrt(2.0))
    else:
        edge = np.hypot(x, y) - rng.uniform(1.0, 1.12)
    fall = 1.0 - 0.22 * np.clip(np.hypot(x, y) / 1.3, 0.0, 1.0) ** 3
    return (fall * np.clip(0.5 - edge / 0.03, 0.0, 1.0)).astype(np.float32)


def _mucosa(rng: np.random.Generator, axis: np.ndarray, noise: dict[int, np.ndarray]) -> np.ndarray:
    """Colour of the healthy wall, float32 (grid, grid, 3) in [0, 1]: patchy pink with a net of darker vessels."""
    weights = rng.dirichlet(np.full(len(_MUCOSA), 0.8)).astype(np.float32)
    base = weights @ _MUCOSA
    redness = np.clip(0.01 + 0.035 * noise[2] + 0.025 * noise[5], -0.02, 0.12) + 0.01 * noise[30]
    albedo = base + redness[..., None] * np.array([0.3, -1.0, -0.8], np.float32)
    vessels = np.zeros_like(redness)
    for frequency, width in ((4, 0.055), (8, 0.075)):
        # The zero line of a noise field is a winding curve; dividing by the slope keeps its width even.
        lines = _noise(rng, axis, frequency) + 0.25 * noise[12]
        slope_y, slope_x = np.gradient(lines, axis[1] - axis[0])
        slope = np.hypot(slope_x, slope_y)
        vessels = np.maximum(vessels, np.exp(-((lines / (width * (0.25 * slope + 0.3))) ** 2)))
    vessels *= np.clip(0.35 + 0.6 * noise[5], 0.0, 1.0) * rng.uniform(0.25, 0.75)
    return albedo - vessels[..., None] * np.array([0.16, 0.24, 0.17], np.float32)


def _add_lesion(
    lesion: _Lesion,
    q: np.ndarray,
    relief: np.ndarray,
    albedo: np.ndarray,
    exposure: np.ndarray,
    noise: dict[int, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raises, colours and grounds one lesion; `q` is its normalised distance (grid, grid)."""
    inside = np.clip(0.5 + (1.0 - q) / 0.08, 0.0, 1.0)
    dome = np.clip(1.0 - q**2, 0.0, 1.0) ** 0.62
    lobes = 1.0 + lesion.pits * (0.10 * noise[5] + 0.05 * noise[12] + 0.012 * noise[30])
    relief = relief * (1.0 - 0.85 * inside) + lesion.height * dome * lobes

    patches = 1.0 + lesion.pits * (0.06 * noise[5] + 0.07 * noise[12] + 0.05 * noise[30])
    rim = 1.0 - 0.16 * np.clip(q, 0.0, 1.0)[..., None] ** 4 * np.array(
        [0.4, 1.0, 1.0], np.float32
    )  # redder base
    albedo = albedo + inside[..., None] * (lesion.colour * patches[..., None] * rim - albedo)

    # A polyp stands in front of the lumen and is lit; the crease at its foot is not, here more and there less.
    exposure = exposure + inside * np.maximum(1.0 - exposure, 0.0)
    crease = np.exp(-(((q - 1.08) / 0.10) ** 2)) * np.clip(0.6 + 0.5 * noise[2], 0.2, 1.0)
    return relief, albedo, exposure * (1.0 - 0.40 * crease)


def _light(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    relief: np.ndarray,
    albedo: np.ndarray,
    exposure: np.ndarray,
    wetness: np.ndarray,
) -> np.ndarray:
    """Lambert shading and wet highlights of a lamp beside the lens, float32 (grid, grid, 3)."""
    step = 2.0 / len(relief)
    slope_y, slope_x = np.gradient(gaussian_filter(relief, 0.012 / step), step)
    lamp = np.array([*rng.uniform(-0.7, 0.7, 2), 1.15])
    to_x, to_y = lamp[0] - x, lamp[1] - y
    normal_length = np.sqrt(1.0 + slope_x**2 + slope_y**2)
    lamp_length = np.sqrt(to_x**2 + to_y**2 + lamp[2] ** 2)
    cosine = np.clip((lamp[2] - slope_x * to_x - slope_y * to_y) / (normal_length * lamp_length), 0.0, 1.0)
    diffuse = (0.30 + 0.85 * cosine) * exposure * rng.uniform(0.95, 1.12)

    # Blinn's half vector for a viewer straight above; droplets (wetness) tilt the surface and break the highlight up.
    half_x, half_y, half_z = to_x / lamp_length, to_y / lamp_length, lamp[2] / lamp_length + 1.0
    tilt_x, tilt_y = slope_x + 0.10 * wetness, slope_y - 0.10 * np.roll(wetness, len(wetness) // 3, 0)
    gloss = (half_z - tilt_x * half_x - tilt_y * half_y) / np.sqrt(
        (1.0 + tilt_x**2 + tilt_y**2) * (half_x**2 + half_y**2 + half_z**2)
    )
    highlight = np.clip((gloss - 0.989) / 0.008, 0.0, 1.0) * (wetness > 0.95) * np.clip(exposure, 0.0, 1.0)
    highlight = gaussian_filter(highlight.astype(np.float32), 0.006 / step)
    # Light scattered in tissue is red: shaded flanks turn warm rather than grey.
    image = albedo * diffuse[..., None] ** np.array([0.8, 1.1, 1.2], np.float32) + 0.9 * highlight[..., None]
    return image.astype(np.float32)


def _noise(rng: np.random.Generator, axis: np.ndarray, frequency: int) -> np.ndarray:
    """Smooth noise of unit variance (about), float32 (grid, grid), with `frequency` lattice cells across the scene.

    A uniform cubic B-spline over a lattice of normals; separable, hence two small matrix products. They are not left
    to BLAS, whose last bits depend on the number of threads.
    """
    lattice = rng.standard_normal((frequency + 3, frequency + 3)).astype(np.float32)
    distance = np.abs((axis[:, None] + 1.0) * (0.5 * frequency) + 1.0 - np.arange(frequency + 3))
    near, far = 2.0 / 3.0 - distance**2 + distance**3 / 2.0, np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    weights = np.where(distance < 1.0, near, far).astype(np.float32)  # (grid, frequency + 3)
    rows = np.einsum("yi,ij->yj", weights, lattice, optimize=False)  # (grid, frequency + 3)
    return 2.1 * np.einsum("yj,xj->yx", rows, weights, optimize=False)  # 2.1: the spline averages its lattice


def _shrink(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean over `factor` x `factor` cells of an array (grid, grid, ...)."""
    size = len(values) // factor
    return values.reshape(size, factor, size, factor, *values.shape[2:]).mean((1, 3))
