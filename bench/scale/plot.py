"""Plots as SVG: lines over an axis, both linear or both logarithmic."""

import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 320, 64, 16, 36, 48


def ticks(low, high, logarithmic):
    if logarithmic:
        return [10**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(high))
    step = next(step / part for part in (1, 2, 5, 10) if high / (step / part) >= 4)
    return [step * i for i in range(math.ceil(high / step) + 1)]


def number(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def plot(path, title, x_title, y_title, lines, logarithmic=False):
    """Writes the plot of `lines`, each `(name, [(x, y), …])`."""
    points = [point for _, line in lines for point in line]
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    x_ticks, y_ticks = (ticks(min(values), max(values), logarithmic) for values in (xs, ys))
    scale = (lambda v: math.log10(max(v, 1e-9))) if logarithmic else (lambda v: v)

    def place(value, marks, begin, end):
        low, high = scale(marks[0]), scale(marks[-1])
        return begin + (scale(value) - low) / (high - low) * (end - begin)

    def at(x, y):
        return place(x, x_ticks, LEFT, WIDTH - RIGHT), place(y, y_ticks, HEIGHT - BOTTOM, TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
        "<style>text{font:12px sans-serif;fill:#444}.t{font-weight:bold}.g{stroke:#ddd}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="t" x="{LEFT}" y="20">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x_title}</text>',
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{y_title}</text>',
    ]
    for mark in x_ticks:
        x, bottom = at(mark, y_ticks[0])
        out.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{number(mark)}</text>')
    for mark in y_ticks:
        left, y = at(x_ticks[0], mark)
        out.append(f'<line class="g" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(mark)}</text>')
    # The first line's name stands above its end, the others' below: ends lie close together where things go as they should.
    for (name, line), colour, down in zip(lines, ("#0b62c4", "#b8860b", "#1a8f4a", "#b33"), (-8, 18, 18, 18)):
        line = [at(*point) for point in sorted(line)]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        out.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in line]
        x, y = line[-1]
        out.append(f'<text x="{x - 4:.1f}" y="{y + down:.1f}" text-anchor="end" style="fill:{colour}">{name}</text>')
    with open(path, "w") as file:
        file.write("\n".join([*out, "</svg>", ""]))
