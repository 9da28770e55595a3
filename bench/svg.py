"""Pictures as SVG text: points of one speed against another, and lines over group widths."""
from html import escape
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 460, 72, 24, 48, 56
HUES = ("#08306b", "#2171b5", "#6baed6", "#41ab5d", "#a63603", "#e6550d", "#fd8d3c", "#c7a76c")


def text(x, y, words, anchor="middle", size=13, color="#333", turn=0):
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"{turned}>{escape(words)}</text>'


def line(x1, y1, x2, y2, color, width=1.0, dash=""):
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"{dashed}/>'


def frame(title, x_name, y_name, parts):
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(middle, 24, title, size=15),
        *parts, text(middle, HEIGHT - 12, x_name), text(18, (TOP + HEIGHT - BOTTOM) / 2, y_name, turn=-90), "</svg>"]) + "\n"


def ticks(high, count=6):
    """Round steps from 0 to at least high."""
    raw = high / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    return [step * i for i in range(int(math.ceil(high / step)) + 1)]


def scatter(points, title, x_name, y_name, ratios, legend):
    """points: (x, y, color, label); ratios: lines y = r x with their names."""
    xs, ys = ticks(1.05 * max(p[0] for p in points)), ticks(1.05 * max(p[1] for p in points))
    x_of = lambda v: LEFT + v / xs[-1] * (WIDTH - LEFT - RIGHT)
    y_of = lambda v: HEIGHT - BOTTOM - v / ys[-1] * (HEIGHT - TOP - BOTTOM)
    parts = []
    for v in xs:
        parts += [line(x_of(v), y_of(0), x_of(v), y_of(ys[-1]), "#e5e5e5"), text(x_of(v), HEIGHT - BOTTOM + 18, f"{v:g}")]
    for v in ys:
        parts += [line(x_of(0), y_of(v), x_of(xs[-1]), y_of(v), "#e5e5e5"), text(LEFT - 8, y_of(v) + 4, f"{v:g}", "end")]
    for ratio, name in ratios:
        x = min(xs[-1], ys[-1] / ratio)
        parts += [line(x_of(0), y_of(0), x_of(x), y_of(ratio * x), "#888", 1, "5 4"), text(x_of(x) - 4, y_of(ratio * x) + (14 if x == xs[-1] else -5), name, "end", 12, "#666")]
    for x, y, color, label in points:
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="5" fill="{color}" fill-opacity="0.8"><title>{escape(label)}: {x:.1f}, {y:.1f}</title></circle>')
    for i, (color, name) in enumerate(legend):
        parts += [f'<circle cx="{LEFT + 16}" cy="{TOP + 14 + 18 * i}" r="5" fill="{color}"/>', text(LEFT + 28, TOP + 18 + 18 * i, name, "start", 12)]
    return frame(title, x_name, y_name, parts)


def lines(series, title, x_name, y_name):
    """series: (map size, {group width: fraction})."""
    x_of = lambda g: LEFT + (g - 1) / 31 * (WIDTH - LEFT - RIGHT - 70)
    y_of = lambda f: HEIGHT - BOTTOM - f * (HEIGHT - TOP - BOTTOM)
    parts = [text(x_of(g), HEIGHT - BOTTOM + 18, str(g)) for g in (1, 2, 4, 8, 12, 16, 20, 24, 28, 32)]
    for tenth in range(0, 11, 2):
        parts += [line(x_of(1), y_of(tenth / 10), x_of(32), y_of(tenth / 10), "#e5e5e5"), text(LEFT - 8, y_of(tenth / 10) + 4, f"{10 * tenth} %", "end")]
    for i, (size, values) in enumerate(series):
        if not values:
            continue
        color = HUES[i % len(HUES)]
        path = " ".join(f"{x_of(g):.1f},{y_of(min(f, 1.02)):.1f}" for g, f in sorted(values.items()))
        parts += [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"/>',
                  line(WIDTH - RIGHT - 62, TOP + 14 + 18 * i, WIDTH - RIGHT - 44, TOP + 14 + 18 * i, color, 3), text(WIDTH - RIGHT - 38, TOP + 18 + 18 * i, f"{size} px", "start", 12)]
    return frame(title, x_name, y_name, parts)
