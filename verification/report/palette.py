"""The report's colours, by what they are for: drawings carry the light ones, the page has both."""

LIGHT = {
    "paper": "#fcfbf8", "card": "#ffffff", "ink": "#1c1e21", "soft": "#5c6067", "rule": "#e3dfd6", "faint": "#f2efe8",
    "blue": "#2b5c8a", "teal": "#1d7a74", "good": "#1b7340", "bad": "#b0281e", "amber": "#8a5a00",
    "good-back": "#e9f4ec", "bad-back": "#fbeae7", "amber-back": "#fbf2de", "blue-back": "#e5edf5",
}  # fmt: skip
DARK = {
    "paper": "#14161a", "card": "#1b1e23", "ink": "#e8e6e1", "soft": "#a0a4ab", "rule": "#32363d", "faint": "#22262c",
    "blue": "#8ab8e6", "teal": "#6cc7c0", "good": "#7fcf9c", "bad": "#f2897e", "amber": "#e3b95f",
    "good-back": "#1a2b20", "bad-back": "#351e1c", "amber-back": "#322913", "blue-back": "#1c2938",
}  # fmt: skip


def ink(fill: str = "", stroke: str = "") -> str:
    """Return the attributes of a shape that has these colours of `LIGHT`, by name: none where there is no name.

    A class lets the page show the dark one. What a page's style sheet does not reach has the light one.
    """
    named = [("fill", fill), ("stroke", stroke)]
    classes = " ".join(f"{part}-{name}" for part, name in named if name)
    painted = [
        f'{part}="{LIGHT[name] if name else "none"}"' for part, name in named if name or part == "fill"
    ]
    return " ".join([f'class="{classes}"', *painted])
