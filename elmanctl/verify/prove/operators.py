"""The operators: each takes a line of code, and where on it code begins, and yields the line with one edit.

Kernels are formatted (binary operators between spaces, template brackets without), so that expressions can be told from the text alone;
what an operator gets wrong does not compile, and is not counted.
"""

import re
from collections.abc import Callable, Iterator

OPEN, CLOSE = "([{", ")]}"
SUM_END = (
    " + ",
    " - ",
    " < ",
    " > ",
    " <= ",
    " >= ",
    " == ",
    " != ",
    " && ",
    " || ",
    " ? ",
    " : ",
    " = ",
    " += ",
    " -= ",
    " *= ",
)
PRODUCT_END = (*SUM_END, " * ", " / ", " % ")
LEFT_WORDS = ("return ",)


def right_end(code: str, at: int, stops: tuple[str, ...]) -> int:
    """Return where the operand that begins at `at` ends."""
    depth = 0
    for i in range(at, len(code)):
        if code[i] in OPEN:
            depth += 1
        elif code[i] in CLOSE:
            depth -= 1
            if depth < 0:
                return i
        elif depth == 0 and (code[i] in ",;" or any(code.startswith(s, i) for s in stops)):
            return i
    return len(code)


def closing(code: str, at: int) -> int:
    """Return where the bracket closes inside which `at` is."""
    while (at := right_end(code, at, ())) < len(code) and code[at] == ",":
        at += 1
    return at


def left_start(code: str, at: int, stops: tuple[str, ...], begin: int) -> int:
    """Return where the operand that ends before `at` begins."""
    depth = 0
    for i in range(at - 1, begin - 1, -1):
        if code[i] in CLOSE:
            depth += 1
        elif code[i] in OPEN:
            depth -= 1
            if depth < 0:
                return i + 1
        elif depth == 0:
            if code[i] in ",;":
                return i + 1 + (code[i + 1] == " ")
            for stop in (*stops, *LEFT_WORDS):
                if code.endswith(stop, begin, i + 1):
                    return i + 1
    return begin


def binary(code: str, begin: int, symbol: str) -> Iterator[int]:
    """Yield where a binary operator between spaces stands (at its leading space)."""
    at = code.find(f" {symbol} ", begin)
    while at >= 0:
        yield at
        at = code.find(f" {symbol} ", at + 1)


def drop_term(code: str, begin: int) -> Iterator[str]:
    for symbol in "+-":
        for at in binary(code, begin, symbol):
            yield code[:at] + code[right_end(code, at + 3, SUM_END) :]
            left = left_start(code, at, SUM_END, begin)
            yield code[:left] + ("-" if symbol == "-" else "") + code[at + 3 :]


def change_sign(code: str, begin: int) -> Iterator[str]:
    for symbol, other in (("+", "-"), ("-", "+"), ("+=", "-="), ("-=", "+=")):
        for at in binary(code, begin, symbol):
            yield f"{code[:at]} {other} {code[at + len(symbol) + 2 :]}"


def overwrite(code: str, begin: int) -> Iterator[str]:
    for symbol in ("+=", "-=", "*="):
        for at in binary(code, begin, symbol):
            yield f"{code[:at]} = {code[at + 4 :]}"


def swap_operands(code: str, begin: int) -> Iterator[str]:
    for symbol, stops in (("-", SUM_END), ("/", PRODUCT_END), ("%", PRODUCT_END)):
        for at in binary(code, begin, symbol):
            left, right = left_start(code, at, stops, begin), right_end(code, at + 3, stops)
            yield f"{code[:left]}{code[at + 3 : right]} {symbol} {code[left:at]}{code[right:]}"


def drop_factor(code: str, begin: int) -> Iterator[str]:
    for at in binary(code, begin, "*"):
        yield code[:at] + code[right_end(code, at + 3, PRODUCT_END) :]
        left = left_start(code, at, PRODUCT_END, begin)
        yield code[:left] + code[at + 3 :]


def swap_arguments(code: str, begin: int) -> Iterator[str]:
    for call in re.finditer(r"[\w>]([({])(?=[^()\s])|(?<= )(\{)(?=[^{}\s]*, )", code[begin:]):
        at = begin + call.end()
        parts, start = [], at
        while True:
            end = right_end(code, start, ())
            parts.append(code[start:end])
            if end >= len(code) or code[end] != ",":
                break
            start = end + 2
        for i in range(min(len(parts) - 1, 3)):
            swapped = [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]]
            yield code[:at] + ", ".join(swapped) + code[at + len(", ".join(parts)) :]


def swap_branches(code: str, begin: int) -> Iterator[str]:
    for at in binary(code, begin, "?"):
        middle = right_end(code, at + 3, (" : ",))
        if code.startswith(" : ", middle):
            end = right_end(code, middle + 3, (" : ",))
            yield f"{code[: at + 3]}{code[middle + 3 : end]} : {code[at + 3 : middle]}{code[end:]}"


def shift_bound(code: str, begin: int) -> Iterator[str]:
    loop = re.search(r"for \((.*?); (.*?); ", code[begin:])
    if not loop:
        return
    first, bound = (slice(begin + loop.start(i), begin + loop.end(i)) for i in (1, 2))
    if found := re.match(r"(.+ )(<|<=)( .+)$", code[bound]):
        yield f"{code[: bound.start]}{code[bound]} - 1{code[bound.stop :]}"
        yield f"{code[: bound.start]}{found[1]}<={found[3]}{code[bound.stop :]}"
    if found := re.match(r"(.+) >= (.+)$", code[bound]):
        yield f"{code[: bound.start]}{found[1]} > {found[2]}{code[bound.stop :]}"
    yield f"{code[: first.stop]} + 1{code[first.stop :]}"
    if not code[first].endswith("= 0"):
        yield f"{code[: first.stop]} - 1{code[first.stop :]}"


def compare(code: str, begin: int) -> Iterator[str]:
    for symbol, other in (("<", "<="), ("<=", "<"), (">", ">="), (">=", ">"), ("==", "!="), ("&&", "||"), ("||", "&&")):
        for at in binary(code, begin, symbol):
            yield f"{code[:at]} {other} {code[at + len(symbol) + 2 :]}"


def shift_index(code: str, begin: int) -> Iterator[str]:
    for found in re.finditer(r"[\w\])]\[", code[begin:]):
        at = begin + found.end()
        end = right_end(code, at, ())
        inside = code[at:end]
        if code[end : end + 1] != "]" or re.fullmatch(r"[A-Z_]\w*|[0-9]*", inside):
            continue  # a declared length, or a name of a place
        yield f"{code[:end]} + 1{code[end:]}"
        yield f"{code[:end]} - 1{code[end:]}"


def skip_tail(code: str, begin: int) -> Iterator[str]:
    for found in re.finditer(r"ceil_div(<\w+>)?\(", code[begin:]):
        at = begin + found.end()
        middle = right_end(code, at, ())
        end = right_end(code, middle + 2, ())
        yield f"{code[: begin + found.start()]}(({code[at:middle]}) / ({code[middle + 2 : end]})){code[end + 1 :]}"
    for found in re.finditer(r"min_of(<\w+>)?\(", code[begin:]):
        at = begin + found.end()
        middle = right_end(code, at, ())
        end = right_end(code, middle + 2, ())
        for part in (code[at:middle], code[middle + 2 : end]):
            yield f"{code[: begin + found.start()]}({part}){code[end + 1 :]}"


def omit_store(code: str, begin: int) -> Iterator[str]:
    for found in re.finditer(r"\b(store|write|copy|copy16_async|read)\(|(?<![\w.])(\w+\.)?\w+_state\(", code[begin:]):
        at, end = begin + found.start(), closing(code, begin + found.end())
        if code[end : end + 2] == ");" and not re.search(r"[\w>] $", code[begin:at].replace("else ", "")):
            yield f"{code[:at]}(void)0{code[end + 1 :]}"
    for found in re.finditer(r"(?:^\s*|[;{)] )((?:\w+\.)?\w[\w.]*(?:\[[^=;]*?\])? [-+*]?= [^;{]*);", code[begin:]):
        if (
            "for (" not in code[begin : begin + found.start(1)][-60:]
            or ") " in code[begin : begin + found.start(1)][-3:]
        ):
            yield f"{code[: begin + found.start(1)]}(void)0{code[begin + found.end(1) :]}"


def other_step(code: str, begin: int) -> Iterator[str]:
    if "for (" in code[begin:]:
        return
    for found in re.finditer(r"(?<![\w.>] )(?<![\w.])(t|slot|step|chunk)\b(?! =|\+\+|--|\(|\.| \?)", code[begin:]):
        at, end, name = begin + found.start(), begin + found.end(), found[0]
        yield f"{code[:at]}({name} > 0 ? {name} - 1 : {name} + 1){code[end:]}"


def remove_sync(code: str, begin: int) -> Iterator[str]:
    for found in re.finditer(r"\b(sync_\w+|copy_wait|copy_commit)(<\w+>)?\(\);", code[begin:]):
        yield f"{code[: begin + found.start()]};{code[begin + found.end() :]}"


OPERATORS: dict[str, Callable[[str, int], Iterator[str]]] = {
    "omit a store": omit_store,
    "drop a term": drop_term,
    "swap operands": swap_operands,
    "swap arguments": swap_arguments,
    "change a sign": change_sign,
    "assign instead of add": overwrite,
    "drop a factor": drop_factor,
    "swap branches": swap_branches,
    "off by one in a loop": shift_bound,
    "off by one in an index": shift_index,
    "change a comparison": compare,
    "skip the tail": skip_tail,
    "another step": other_step,
    "remove a sync": remove_sync,
}
