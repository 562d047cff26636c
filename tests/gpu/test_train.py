"""Training on CUDA: the captured step does what the eager step does, and leaves nothing behind that did not train."""

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from elmanctl import train
from elmanctl.checkpoint import latest
from elmanctl.errors import UserError
from elmanctl.norms import implementation
from elmanctl.records import Budget, read_steps
from elmanctl.step import WARMUPS

pytestmark = pytest.mark.gpu


def on_cuda(trial, **change):
    return msgspec.structs.replace(trial, device="cuda", **change)


def losses(folder):
    return [s.loss for s in read_steps(Path(folder) / "steps.jsonl")]


def test_graph_eager_and_cpu_follow_the_same_curve(trainee):
    graph = train.run(on_cuda(trainee.trial(steps=30)), Path("graph"))
    again = train.run(on_cuda(trainee.trial(steps=30)), Path("again"))
    eager = train.run(on_cuda(trainee.trial(steps=30, graph=False)), Path("eager"))
    cpu = train.run(trainee.trial(steps=30), Path("cpu"))
    assert (graph.status, graph.graph, eager.graph) == ("ok", True, False)
    assert losses("graph") == losses("again")
    # The weights that the eager step reads are the same; only bf16 rounding separates either from the CPU's fp32.
    assert losses("graph") == pytest.approx(losses("eager"), abs=1e-3)
    assert losses("graph") == pytest.approx(losses("cpu"), abs=0.02)
    assert graph.heldout_loss == pytest.approx(cpu.heldout_loss, abs=0.02)
    assert len({r.batch_hash for r in (graph, again, eager, cpu)}) == 1
    seconds = [s.seconds for s in read_steps(Path("graph/steps.jsonl"))]
    assert seconds == sorted(seconds) and 0 < seconds[0] < 1  # warm-up and capture come before the clock
    assert graph.norm == implementation("cuda") and graph.peak_memory_bytes > 10_000 and graph.versions["cuda"]


@pytest.mark.parametrize("model", ["E42", "E88h4n16"])
def test_fifty_captured_steps_are_fifty_eager_ones_bit_by_bit(trainee, model):
    saved = []
    for graph in (True, False):
        trial = on_cuda(trainee.trial(model, steps=50, graph=graph, checkpoint_every=50), dim=256, depth=3)
        result = train.run(trial, Path(f"graph{graph}"))
        assert (result.status, result.graph, result.execution) == ("ok", graph, "kernel")
        saved.append(latest(Path(f"graph{graph}")))
    assert losses("graphTrue") == losses("graphFalse") and len(losses("graphTrue")) == 50
    for name in ("model.safetensors", "optimizer.safetensors"):
        captured, eager = (load_file(folder / name) for folder in saved)
        assert captured.keys() == eager.keys()
        assert not [key for key in captured if not torch.equal(captured[key], eager[key])]


def test_warm_up_leaves_no_trace_in_buffers_weights_and_moments(trainee):
    train.run(on_cuda(trainee.trial(steps=2, checkpoint_every=2)), Path("a"))
    saved = latest(Path("a"))
    assert load_file(saved / "model.safetensors")["layers.0.calls"] == 2 != WARMUPS
    assert load_file(saved / "optimizer.safetensors")["step.embedding"] == 2


@pytest.mark.parametrize("graph", [True, False])
def test_resume_is_bit_exact(trainee, graph):
    """Dropout makes the device's generator matter, inside the graph too."""
    trial = on_cuda(trainee.trial("Toy:dropout=0.1", steps=12, checkpoint_every=6, graph=graph))
    assert train.run(trial, Path("whole")).status == "ok"
    assert train.run(trial, Path("part")).status == "ok"
    import shutil

    shutil.rmtree(latest(Path("part")))
    assert train.run(trial, Path("part"), resume=True).status == "ok"
    assert losses("whole") == losses("part") and len(losses("part")) == 12
    for group in ("model", "optimizer", "generators"):
        a, b = (load_file(latest(Path(run)) / f"{group}.safetensors") for run in ("whole", "part"))
        assert not [name for name in a if not a[name].equal(b[name])]


def test_divergence_inside_the_graph_stops_and_keeps_the_step_s_number(trainee):
    ended = train.run(on_cuda(trainee.trial(steps=50, lr=1e38, warmup_steps=0)), Path("a"))
    assert ended.status == "diverged" and ended.steps == len(losses("a")) < 10
    assert f"step {ended.steps + 1}: loss nan" in ended.message and "first not finite:" in ended.message
    assert Path(f"a/diverged_step_{ended.steps + 1:06d}.npy").exists()


def test_a_step_that_cannot_be_captured_says_to_run_eager(trainee):
    """The Toy reads a counter on the host where `break_at` is set."""
    with pytest.raises(UserError, match="cannot be captured .* --no-graph"):
        train.run(on_cuda(trainee.trial("Toy:break_at=5")), Path("a"))
    torch.cuda.synchronize()
    ended = train.run(on_cuda(trainee.trial("Toy:break_at=5", steps=9, graph=False)), Path("b"))
    assert (ended.status, ended.steps) == ("diverged", 4) and "layers.0.cell" in ended.message


def test_minutes_count_from_the_first_step(trainee):
    ended = train.run(on_cuda(trainee.trial(budget=Budget(minutes=0.02))), Path("a"))
    # The host's clock ends the run, the device's tells when the last step was over.
    assert ended.seconds == pytest.approx(1.2, abs=0.1) and ended.steps > 100


@pytest.mark.parametrize("model", ["Toy", "E42", "E88h4n16"])
def test_checkpointed_layers_and_a_chunked_loss_are_captured_and_follow_the_same_curve(trainee, model):
    """A spectral norm's vector moves once a step; bf16 work on parts of the loss may sum in another order."""
    torch.compiler.reset()
    trial = on_cuda(trainee.trial(model, steps=20), dim=128)
    plain = train.run(trial, Path("plain"))
    thrifty = msgspec.structs.replace(trial.training, checkpoint_layers=2)
    again = train.run(msgspec.structs.replace(trial, training=thrifty), Path("layers"))
    chunked = msgspec.structs.replace(thrifty, loss_chunks=4)
    parts = train.run(msgspec.structs.replace(trial, training=chunked), Path("chunks"))
    assert plain.graph and again.graph and parts.graph
    assert losses("plain") == losses("layers")
    assert losses("plain") == pytest.approx(losses("chunks"), abs=0.01)


def test_checkpointing_a_long_chunk_takes_less_memory(trainee):
    trial = on_cuda(trainee.trial("E88h4n16", steps=2, batch=8, chunk=384), dim=256, depth=8)
    peaks = []
    for settings in ({}, {"checkpoint_layers": 4}, {"checkpoint_layers": 8}):
        training = msgspec.structs.replace(trial.training, **settings)
        result = train.run(msgspec.structs.replace(trial, training=training), Path(f"run{len(peaks)}"))
        peaks.append(result.peak_memory_bytes)
    assert peaks[0] > peaks[1] > peaks[2]


def test_a_graph_does_not_checkpoint_a_layer_that_draws_random_numbers(trainee):
    trial = on_cuda(trainee.trial("Toy:dropout=0.1", checkpoint_layers=1))
    with pytest.raises(UserError, match="draws random numbers, which a graph cannot repeat.*--no-graph"):
        train.run(trial, Path("a"))
    torch.cuda.synchronize()
    for name, layers in (("plain", 0), ("again", 2)):
        training = msgspec.structs.replace(trial.training, graph=False, checkpoint_layers=layers)
        train.run(msgspec.structs.replace(trial, training=training), Path(name))
    assert losses("plain") == losses("again")


@pytest.mark.parametrize("model", ["gru", "lstm", "rnn", "llama"])
def test_baselines_go_through_the_same_captured_step(trainee, model):
    torch.compiler.reset()
    trial = on_cuda(trainee.trial(model, steps=20), dim=128)
    graph = train.run(trial, Path("graph"))
    train.run(
        msgspec.structs.replace(trial, training=msgspec.structs.replace(trial.training, graph=False)), Path("eager")
    )
    assert graph.graph and graph.status == "ok" and graph.execution == "library"
    assert losses("graph") == pytest.approx(losses("eager"), abs=0.01)
    assert losses("graph")[-1] < losses("graph")[0]
