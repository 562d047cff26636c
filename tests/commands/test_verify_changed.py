"""What `elmanctl verify --changed` verifies: CI runs it at every change."""

from elmanctl.commands.verify_choice import changed_specs
from elmanctl.plugins.registry import registry
from elmanctl.verify import hashes, receipt


def test_changed_verifies_what_is_not_green_and_one_of_each_family(monkeypatch):
    shipped = [registry().resolve(v.name) for v in registry().variants().values()]
    kernels = {s.variant.name: s for s in shipped if s.variant.has_kernel}
    gru = next(s for s in shipped if s.variant.name == "gru")
    families = {name: hashes.family(s.variant) for name, s in kernels.items()}
    assert 1 < len(set(families.values())) < len(kernels), families
    states = dict.fromkeys(kernels, "green")
    monkeypatch.setattr(receipt, "state", lambda s, target: states[s.variant.name])
    listed = list(kernels.values())
    chosen = [s.variant.name for s in changed_specs(listed, "host")]
    assert len(chosen) == len(set(families.values())) and {families[n] for n in chosen} == set(families.values())
    left = next(n for n in kernels if n not in chosen)
    for other in ("stale", "red", "none"):
        states[left] = other
        assert left in [s.variant.name for s in changed_specs(listed, "host")]
    for state in ("green", "stale", "none"):  # a baseline has no family
        states["gru"] = state
        assert (gru in changed_specs([gru, *listed], "host")) == (state != "green")


def test_changed_verifies_other_configurations_whose_receipts_are_not_green(monkeypatch):
    e61 = registry().resolve("E61")
    forms = [registry().resolve(name) for name in ("E61b", "E61c")]
    worth = dict.fromkeys([e61, *forms], "green")
    monkeypatch.setattr(receipt, "state", lambda s, target: worth[s])
    monkeypatch.setattr(receipt, "configurations", lambda variant, target: [e61, *forms])
    assert changed_specs([e61], "host") == [e61]
    worth[forms[1]] = "stale"
    assert changed_specs([e61], "host") == [e61, forms[1]]
    worth[e61] = "red"
    assert changed_specs([e61], "host") == [e61, forms[1]], "each once"
