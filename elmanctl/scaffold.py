"""Make a new variant: copy a variant's folder, or the template's, under a new name.

* Identifiers are renamed as whole tokens, in file names and text: of X8 that is `X8`, `x8`, `x8::step`, `X8f_h8`, `x8.cu.cc`,
  never X80 or AX8, and nothing of a package that the variant imports.
* All or nothing: the folder is written aside, loaded once, and renamed into place.
"""

import contextlib
import keyword
import os
import re
import shutil
import tempfile
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elmanctl.errors import UserError, did_you_mean
from elmanctl.plugins import discovery
from elmanctl.plugins.registry import Registry
from elmanctl.variant import Variant

TEMPLATE = Path(__file__).parent / "templates" / "blank"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Left behind: what was made from the old sources, and hidden files.
LEFT = re.compile(r"\..*|__pycache__|.*\.(pyc|so|o)|receipts?(\.json)?|.*\.receipt\.json|compile_commands\.json")
PROVENANCE = "\n## Provenance\n"
# Words that cannot be a namespace, a module of the folder or a name in the generated header.
CPP_KEYWORDS = """alignas alignof asm auto bool break case catch char class concept const constexpr consteval constinit const_cast
continue decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int
long mutable namespace new noexcept nullptr operator private protected public register reinterpret_cast requires return short signed
sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename union
unsigned using virtual void volatile wchar_t while"""
OURS = "args elman std layer binding reference variant kernel config variants elmanctl"


@dataclass(frozen=True)
class File:
    """One file of the new folder: its path in it, its content, and how many lines differ from the original."""

    path: str
    content: bytes
    changed: int


def stem_of(name: str) -> str:
    """Return the folder of a variant's name."""
    return name.lower().replace("-", "_")


def check_name(known: Registry, name: str, source: Path = TEMPLATE) -> None:
    """Refuse a name that is malformed, reserved or taken.

    Args:
        source: the folder that is to be copied; its own identifiers are reserved, as the template's are, or a copy of the copy would rename them.
    Raises:
        UserError: with the rule and, for a name that is taken, what has it.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a variant: letters, digits and _, a letter first. For example X9.")
    reserved = {*CPP_KEYWORDS.split(), *OURS.split(), *map(str.lower, keyword.kwlist), TEMPLATE.name}
    if name.lower() in reserved:
        raise UserError(
            f"{name} is a word of Python, C++ or elmanctl and would clash in the copied files. Choose another."
        )
    for variant in known.variants().values():
        taken = {n.lower() for n in (*variant.heads(), *variant.aliases)}
        if name.lower() in taken or variant.match(name) or variant.folder.name == stem_of(name):
            where = known.sources()[variant.name].where
            raise UserError(
                f"{name} is taken by {variant.name} ({where}). Choose another name; elmanctl list shows all."
            )
    for problem in known.problems():
        if problem.plugin == stem_of(name):
            raise UserError(
                f"{name} is taken by {problem.where}, which cannot be loaded ({problem.text}). Repair or remove it."
            )
    if used := next((folder for folder in (source, TEMPLATE) if name.lower() in identifiers(folder)), None):
        where = "the template" if used == TEMPLATE else f"{used.name}'s files"
        raise UserError(
            f"{name} stands for something else in the code of {where}, and a copy could not tell the two apart. Choose another, for example X9."
        )


def identifiers(folder: Path) -> set[str]:
    """Return the words of a folder's code, in small letters; not those of comments and of texts."""
    found = set()
    for path in folder.rglob("*.py"):
        with path.open("rb") as file, contextlib.suppress(SyntaxError, tokenize.TokenError):
            found |= {token.string.lower() for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    for path in (*folder.rglob("*.cu.cc"), *folder.rglob("*.cuh")):
        code = re.sub(r'//.*|/\*[\s\S]*?\*/|"[^"\n]*"', " ", path.read_text(errors="replace"))
        found |= {word.lower() for word in re.findall(r"[A-Za-z_]\w*", code)}
    return found


def source_variant(known: Registry, name: str) -> Variant:
    """Return the variant that `--from` names: a whole name, without regard to case."""
    variants = {v.lower(): variant for v, variant in known.variants().items()}
    if name.lower() in variants:
        return variants[name.lower()]
    for variant in variants.values():
        if variant.match(name) or name.lower() in (a.lower() for a in variant.aliases):
            raise UserError(f"--from {name} is a configuration. A copy takes the whole variant: --from {variant.name}.")
    raise UserError(
        f"--from {name}: there is no such variant.{did_you_mean(name, known.variants())} Run elmanctl list."
    )


def destination() -> Path:
    """Return the `variants/` folder that a new variant goes to: the nearest of the project, else one in the current directory.

    Raises:
        UserError: when local folders are switched off, so that the new variant could not be found.
    """
    if os.environ.get("ELMANCTL_NO_LOCAL", "") not in ("", "0"):
        raise UserError(
            "new writes to a local variants/ folder, which --no-local (ELMANCTL_NO_LOCAL) ignores. Leave it out."
        )
    found = discovery.local_folders()
    return found[0] if found else Path.cwd() / "variants"


def plan_copy(source: Variant, name: str) -> list[File]:
    """Return the files of a copy of `source` under `name`."""
    stem = source.folder.name
    extra = [n for n in (*source.presets, *source.aliases) if rename(n, source.name, stem, name) == n]
    protected = (*source.requires, "torch", "nn", "F")
    tags = "".join(f"(?:{tag}[0-9]+)?" for tag, _ in source.tags())

    def text(original: str) -> str:
        changed = rename(original, source.name, stem, name, protected)
        for other in extra:  # a head that does not carry the old name would collide with the original's
            more = tags if other in source.presets else ""
            changed = re.sub(rf"([\"'`]){re.escape(other)}(?={more}[\"'`:])", rf"\1{name}_{other}", changed)
        if source.name == stem:
            changed = re.sub(rf"(\bname=[\"']){re.escape(stem_of(name))}([\"'])", rf"\g<1>{name}\2", changed)
        return changed

    return _plan(source.folder, lambda path: rename(path, source.name, stem, name), text, f"Copied from {source.name}.")


def plan_template(name: str) -> list[File]:
    """Return the files of the template under `name`."""
    stem = TEMPLATE.name

    def renamed(text: str) -> str:
        return rename(text, stem.capitalize(), stem, name)

    return _plan(TEMPLATE, renamed, renamed, "")


def _plan(folder: Path, rename_path: Callable, rename_text: Callable, provenance: str) -> list[File]:
    files = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(LEFT.fullmatch(part) for part in relative.parts):
            continue
        old = path.read_bytes()
        try:
            text = old.decode()
        except UnicodeDecodeError:
            files.append(File(rename_path(str(relative)), old, 0))
            continue
        if relative.name == "README.md" and PROVENANCE in text:
            # Where the mathematics came from stays true of the copy.
            body, history = text.split(PROVENANCE, 1)
            new = rename_text(body) + PROVENANCE + history.rstrip() + f"\n\n{provenance}".rstrip() + "\n"
        else:
            new = rename_text(text)
        lines = list(zip(text.splitlines(), new.splitlines(), strict=False))
        changed = sum(a != b for a, b in lines) + abs(len(text.splitlines()) - len(new.splitlines()))
        files.append(File(rename_path(str(relative)), new.encode(), changed))
    return files


def rename(text: str, old_name: str, old_stem: str, new_name: str, protected: tuple[str, ...] = ()) -> str:
    """Replace whole tokens: the name by the new name, the folder's stem by the new stem.

    A token may be followed by letters where the old name ends in a digit (`X8f_`), and by `_` always. What follows a dot after a
    `protected` module is that module's own and stays. A name in small letters that follows `a` or `an` is a word and stays.
    """
    new = {old_name: new_name, old_stem: stem_of(new_name)}
    after = "(?![0-9])" if old_name[-1].isdigit() else "(?![A-Za-z0-9])"
    tokens = "|".join(sorted(map(re.escape, new), key=len, reverse=True))
    roots = {root for module in protected for root in (module, module.split(".")[0])}

    def replace(found: re.Match) -> str:
        chain = re.search(r"([A-Za-z_]\w*)(?:\.\w+)*\.$", text[max(0, found.start() - 200) : found.start()])
        return found[0] if chain and chain[1] in roots else new[found[0]]

    before = r"(?<![A-Za-z0-9])" + (r"(?<!\ba )(?<!\ban )" if re.fullmatch("[a-z]+", old_name) else "")
    return re.sub(rf"{before}(?:{tokens}){after}", replace, text)


def write(files: list[File], folder: Path, name: str) -> None:
    """Create `folder` from a plan: written aside, loaded once to see that it is a variant of that name, then renamed.

    Raises:
        UserError: when the folder exists, cannot be written, or what was written does not load.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already. Choose another name, or remove it first.")
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
        work = aside / folder.name
        for file in files:
            path = work / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
        _try_out(work, name)
        work.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} could not be written: {error.strerror or error}. Nothing was left behind."
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _try_out(work: Path, name: str) -> None:
    """Load the new folder and its modules from where it lies aside, without leaving byte code or a module behind."""
    try:
        variant = discovery.load_variant(work)
        if isinstance(variant, Variant):
            needed = ("binding", "reference") if variant.missing() else ("binding", "reference", "layer")
            for part in needed:
                if (work / f"{part}.py").exists():
                    variant.module(part)
    except Exception as error:
        raise UserError(f"The copy does not load: {discovery.describe(error, work)}. Nothing was written.") from error
    finally:
        discovery.forget(f"{discovery.NAMESPACE}.{work.name}")
        shutil.rmtree(work / "__pycache__", ignore_errors=True)
    if not isinstance(variant, Variant) or variant.name != name:
        raise UserError(
            f"The copy does not declare {name}; its source names itself in an unusual way. Nothing was written."
        )
