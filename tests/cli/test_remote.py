"""Addresses on the command line: the same answers as for local paths, for kilobytes a model, from a server here."""

import json
import re
import shutil

import pytest

from apr.formats.dtypes import DType
from apr.formats.registry import open_checkpoint
from apr.formats.safetensors.header import encode_header
from tests.cli.conftest import imported_by
from tests.faults.tokenizers import tokenizer_files
from tests.gguf_models import write_gguf
from tests.identity.headers import QWEN2_HALF_BILLION, stored_shapes
from tests.serving import COMMIT, ModelServer
from tests.tiny_models import relabel, save_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of one organisation, healthy and not, in every container."""
    from apr.convert.importing import import_checkpoint

    root = tmp_path_factory.mktemp("hub")
    home = root / "org"
    qwen = save_tiny(home / "qwen", "qwen2")
    shutil.copytree(qwen, home / "lie")
    relabel(home / "lie", "llama", "LlamaForCausalLM")
    _shard(qwen, home / "sharded")
    shutil.copytree(home / "sharded", home / "gap")
    next((home / "gap").glob("model-00002-*")).unlink()
    shutil.copytree(qwen, home / "twice")
    shutil.copy(home / "sharded/model.safetensors.index.json", home / "twice")
    shutil.copytree(qwen, home / "nameless")
    (home / "nameless/config.json").unlink()
    shutil.copytree(qwen, home / "torn")
    with (home / "torn/model.safetensors").open("r+b") as file:
        file.truncate(300_000)
    files = home / "files"
    files.mkdir()
    shutil.copy(qwen / "model.safetensors", files / "bare.safetensors")
    import_checkpoint(qwen, files / "qwen.apr")
    write_gguf(qwen, files / "qwen.gguf", "qwen2")
    write_gguf(qwen, files / "lie.gguf", "llama")
    return root


def _shard(source, target):
    """`source` again in three shards."""
    from apr.formats.hf.write import write_hf_directory
    from apr.formats.writing import tensor_from_bytes

    with open_checkpoint(source) as checkpoint:
        tensors = [
            tensor_from_bytes(entry.name, entry.dtype, entry.shape, entry.read_bytes())
            for entry in checkpoint.tensors.values()
        ]
        config = json.loads((source / "config.json").read_text())
        write_hf_directory(target, config=config, tensors=tensors, shard_bytes=150_000)


@pytest.fixture
def hub(models, monkeypatch):
    """A hub on this machine that redirects large files to another server, and is what `hf://` stands for."""
    with ModelServer(models).running() as cdn, ModelServer(models, cdn=cdn).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


SAME = {
    "a healthy directory": "qwen",
    "a lie": "lie",
    "shards": "sharded",
    "a missing shard": "gap",
    "two sets of weights": "twice",
    "no config": "nameless",
    "a file that ends early": "torn",
    "a bare file": "files/bare.safetensors",
    "an APR file": "files/qwen.apr",
    "a GGUF file": "files/qwen.gguf",
    "a GGUF file that lies": "files/lie.gguf",
}


def without_place(document, *places):
    """The document without the path, what it cost, and how the checkpoint is called and fetched."""
    text = json.dumps({key: value for key, value in document.items() if key not in ("path", "remote")})
    text = re.sub(r"(hf download|curl -fL|download the files)[^\n]*?\\n", "", text)
    for place in sorted(map(str, places), key=len, reverse=True):
        text = text.replace(place, "PLACE")
    return json.loads(text.replace("files/", ""))  # The folder, which a downloaded file is not in.


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("layout", ["hub", "plain"])
def test_an_address_gets_the_answer_of_the_local_path(apr, hub, models, monkeypatch, name, layout):
    monkeypatch.chdir(models / "org")
    local_path = SAME[name]
    address = f"hf://org/{local_path}" if layout == "hub" else f"{hub.cdn.url}/org/{local_path}"
    local, remote = apr("preflight", local_path, "--json"), apr("preflight", address, "--json")
    assert remote.exit_code == local.exit_code
    assert remote.document["path"] == address
    assert remote.document["remote"]["requests"] == len(hub.requests) + len(hub.cdn.requests)
    places = (address, address.rpartition("/")[0] + "/org", local_path, local_path.rpartition("/")[2])
    there = without_place(remote.document, *places)
    here = without_place(local.document, *places)
    for each in (there, here):
        each["findings"] = [one for one in each["findings"] if one["id"] != "FALSIFY-APR-PRETRAIN-ARCH-009"]
    assert there == here


@pytest.mark.planted_defect("INV-INIT-ARCH-MATCH-001")
def test_a_lie_is_refused_with_the_commands_that_fetch_and_repair_it(apr, hub):
    result = apr("preflight", "hf://org/lie@v1", "--json")
    assert result.exit_code == 5
    refused = next(each for each in result.document["findings"] if each["id"] == "INV-INIT-ARCH-MATCH-001")
    assert refused["status"] == "refuse"
    assert refused["remedy"].splitlines()[:2] == [
        "hf download org/lie --revision v1 --local-dir lie",
        "apr stamp lie --architecture qwen2 --hf-architecture Qwen2ForCausalLM --hf-model-type qwen2 -o lie.qwen2",
    ]
    assert result.document["remote"]["revision"] == COMMIT


def _sparse_model(directory, shards):
    """A Qwen2 of half a billion parameters whose files hold their header and otherwise nothing on the disk."""
    directory.mkdir(parents=True)
    shapes = stored_shapes("Qwen2ForCausalLM", **QWEN2_HALF_BILLION)
    names = sorted(shapes)
    weight_map = {}
    for number in range(shards):
        part = names[number::shards]
        forms = {}
        for name in part:
            count = 1
            for length in shapes[name]:
                count *= length
            forms[name] = (DType.BF16, shapes[name], 2 * count)
        head = encode_header(forms, {"format": "pt"})
        file_name = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        weight_map.update(dict.fromkeys(part, file_name))
        with (directory / file_name).open("wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(size for _, _, size in forms.values()))
    config = {**QWEN2_HALF_BILLION, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    config |= {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu", "use_sliding_window": False}
    (directory / "config.json").write_text(json.dumps(config))
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 12])
def test_a_model_of_a_gigabyte_costs_kilobytes(apr, hub, tmp_path, monkeypatch, shards):
    _sparse_model(tmp_path / "org/large", shards)
    with ModelServer(tmp_path).running() as cdn, ModelServer(tmp_path, cdn=cdn).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        result = apr("preflight", "hf://org/large", "--json")
        sent = server.body_bytes + cdn.body_bytes
    assert result.exit_code == 0, result.stdout
    assert sum(path.stat().st_size for path in (tmp_path / "org/large").iterdir()) > 900_000_000
    # A read-ahead for each file, and what a longer header holds beyond it.
    assert result.document["remote"]["bytes"] == sent < 70_000 + (shards > 1) * shards * 8_000
    assert result.document["remote"]["requests"] <= 6 + 3 * shards


def test_shards_are_asked_for_side_by_side(apr, hub, tmp_path, monkeypatch):
    _sparse_model(tmp_path / "org/large", 12)
    with ModelServer(tmp_path).running() as server:
        server.latency_s = 0.05
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert apr("preflight", "hf://org/large").exit_code == 0
        assert server.most_at_a_time > 3


def test_the_answer_for_people_says_what_it_cost(apr, hub):
    result = apr("preflight", "hf://org/qwen")
    assert result.exit_code == 0
    assert re.search(r"^fetched \d+\.\d+ KiB in 6 requests$", result.stdout, re.MULTILINE)


def test_a_local_document_says_nothing_of_a_network(apr, models):
    assert "remote" not in apr("preflight", models / "org/qwen", "--json").document


def test_many_addresses_and_paths_answer_in_order_and_side_by_side(apr, hub, models):
    hub.latency_s = 0.05
    sources = ["hf://org/qwen", models / "org/qwen", "hf://org/lie", "hf://org/absent", f"{hub.cdn.url}/org/sharded/"]
    result = apr("preflight", *sources, "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["path"] for document in documents] == [str(source) for source in sources]
    assert [document["accepted"] for document in documents] == [True, True, False, False, True]
    assert ["remote" in document for document in documents] == [True, False, True, True, True]
    assert result.exit_code == 5
    assert hub.most_at_a_time > 3
    table = apr("preflight", *sources).stdout
    assert "fetched" in table.splitlines()[0]
    assert len(table.splitlines()) == 6


@pytest.mark.parametrize(
    ("files", "text", "remedy"),
    [
        (["config.json", "pytorch_model.bin"], "stored as Python pickles", 'from_pretrained("model")'),
        (["pytorch_model.bin.index.json"], "stored as Python pickles", "hf download org/model --local-dir model"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter", "merge_and_unload"),
        (["config.json", "tf_model.h5"], "no weights under the names", "name the file itself"),
        (["README.md"], "no weights under the names", "hf://org/model/FILE.safetensors"),
    ],
)
def test_a_repository_without_safetensors_is_called_what_it_is(apr, tmp_path, monkeypatch, files, text, remedy):
    (tmp_path / "org/model").mkdir(parents=True)
    for name in files:
        with (tmp_path / "org/model" / name).open("wb") as file:
            file.write(b"{}")
            file.truncate(50_000_000 if name.endswith((".bin", ".h5", "l.safetensors")) else 2)
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        result = apr("preflight", "hf://org/model", "--json")
    assert result.exit_code == 5
    refused = next(each for each in result.document["findings"] if each["status"] == "refuse")
    assert text in refused["message"]
    assert remedy in refused["remedy"]
    assert result.document["remote"]["bytes"] < 200


def test_a_tokenizer_that_is_given_is_held_against_the_one_at_the_address(apr, hub, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    model = save_tiny(tmp_path / "org/model", "qwen2")
    for folder, more in ((model, {}), (tmp_path / "same", {}), (tmp_path / "other", {"shuffled": True})):
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_bytes(tokenizer_files(300, **more)["tokenizer.json"])
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for name, exit_code in (("same", 0), ("other", 5)):
            result = apr("preflight", "hf://org/model", "--tokenizer", tmp_path / name, "--json")
            assert result.exit_code == exit_code, result.stdout
            assert result.exit_code == apr("preflight", model, "--tokenizer", tmp_path / name).exit_code


def test_nothing_at_an_address_is_not_found(apr, hub):
    for address in ("hf://org/absent", f"{hub.cdn.url}/org/absent/", f"{hub.cdn.url}/org/absent.apr"):
        assert apr("preflight", address).exit_code == 3, address
    assert "no such repository" in apr("preflight", "hf://org/absent").stdout
    assert "there is no model at this address" in apr("preflight", f"{hub.cdn.url}/org/absent/").stdout


def test_a_server_that_fails_is_an_input_output_error(apr, hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.faults["config.json"] = lambda handler, file: handler.answer(500, b"") or True
    result = apr("preflight", "hf://org/qwen")
    assert result.exit_code == 7
    assert "the server fails" in result.stdout


def test_a_config_without_bound_is_refused_before_it_is_read(apr, hub, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    model = save_tiny(tmp_path / "org/model", "qwen2")
    with (model / "config.json").open("r+b") as file:
        file.truncate(17 << 20)
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        result = apr("preflight", "hf://org/model", "--json")
    assert result.exit_code == 5
    assert "larger than its kind ever is" in result.stdout
    assert result.document["remote"]["bytes"] < 100_000


def test_a_shard_name_that_leads_elsewhere_is_not_asked_for(apr, hub, tmp_path, monkeypatch):
    _sparse_model(tmp_path / "org/model", 2)
    index_path = tmp_path / "org/model/model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../other/model.safetensors")
    index_path.write_text(json.dumps(index))
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        result = apr("preflight", "hf://org/model")
        assert not any("other" in path for path, _ in server.requests)
    assert result.exit_code == 5
    assert "leads outside the directory" in result.stdout


@pytest.mark.parametrize(("count", "most_requests"), [("1" * 200, 8), ("99999999", 8), ("300", 310)])
def test_shard_numbers_in_an_index_make_it_ask_within_bounds(apr, hub, tmp_path, monkeypatch, count, most_requests):
    _sparse_model(tmp_path / "org/model", 1)
    name = f"model-1-of-{count}.safetensors"
    weights = (tmp_path / "org/model/model.safetensors").rename(tmp_path / "org/model" / name)
    with open_checkpoint(weights) as checkpoint:
        index = {"metadata": {}, "weight_map": dict.fromkeys(checkpoint.tensors, name)}
    (tmp_path / "org/model/model.safetensors.index.json").write_text(json.dumps(index))
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        result = apr("preflight", "hf://org/model")
        assert len(server.requests) <= most_requests
    assert result.exit_code == 0, result.stdout


def test_a_private_repository_opens_with_the_token_that_is_never_shown(apr, models, monkeypatch):
    with ModelServer(models, token="hf_secret").running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        denied = apr("preflight", "hf://org/lie")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        answers = [apr("preflight", "hf://org/lie", *more) for more in ([], ["--json"])]
        monkeypatch.setenv("HF_TOKEN", "hf_wrong\nhf_secret")
        broken = apr("preflight", "hf://org/lie")
    assert denied.exit_code == 7
    assert "does not let you read this" in denied.stdout
    assert [answer.exit_code for answer in answers] == [5, 5]
    assert broken.exit_code == 2
    assert not any("hf_secret" in each.stdout + each.stderr for each in (*answers, broken))


@pytest.mark.parametrize("option", ["--deep", "--load"])
def test_what_reads_more_than_headers_is_refused_before_anything_is_asked(apr, hub, option):
    result = apr("preflight", "hf://org/qwen", option)
    assert result.exit_code == 2
    assert f"{option} reads more than headers" in result.stderr
    assert "hf download org/qwen --local-dir qwen" in result.stderr
    assert not hub.requests


@pytest.mark.parametrize(
    "arguments", [("inspect", "--quality"), ("inspect", "--deep"), ("inspect", "--vocab"), ("tensors", "--stats")]
)
def test_other_commands_refuse_what_reads_more_than_headers(apr, hub, arguments):
    assert apr(arguments[0], "hf://org/qwen", arguments[1]).exit_code == 2
    assert not hub.requests


@pytest.mark.parametrize("command", ["inspect", "tensors"])
@pytest.mark.parametrize("name", ["qwen", "sharded", "files/qwen.apr", "files/bare.safetensors", "files/lie.gguf"])
def test_inspect_and_tensors_answer_as_for_a_local_path(apr, hub, models, command, name):
    local, remote = apr(command, models / "org" / name, "--json"), apr(command, f"hf://org/{name}", "--json")
    assert remote.exit_code == local.exit_code == 0
    there, here = remote.document, local.document
    assert there.pop("remote")["bytes"] < 400_000
    assert {**there, "file": ""} == {**here, "file": ""}


def test_the_names_of_tokenizer_files_cost_bytes_and_their_content_is_not_fetched(apr, hub, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    model = save_tiny(tmp_path / "org/model", "qwen2")
    with (model / "tokenizer.json").open("wb") as file:
        file.truncate(20_000_000)
    with ModelServer(tmp_path).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        inspected = apr("inspect", "hf://org/model", "--json").document
        checked = apr("preflight", "hf://org/model", "--json").document
    assert inspected["tokenizer"]["files"] == ["tokenizer.json"]
    assert inspected["remote"]["bytes"] - checked["remote"]["bytes"] < 500
    note = next(each for each in checked["findings"] if each["id"] == "FALSIFY-APR-PRETRAIN-ARCH-009")
    assert note["status"] == "unchecked"
    assert "not fetched over the network" in note["message"]


@pytest.mark.parametrize(
    "address", ["s3://bucket/model", "http://example.com/m", "https://a:b@host/m", "hf://datasets/a/b"]
)
def test_an_address_that_must_not_be_asked_is_a_usage_error(apr, hub, address):
    result = apr("preflight", "hf://org/qwen", address)
    assert result.exit_code == 2
    assert not hub.requests


def test_commands_for_local_paths_say_that_they_are(apr, hub):
    for arguments in (("validate", "hf://org/qwen"), ("diff", "hf://org/qwen", "x"), ("lint", "https://host/x.apr")):
        result = apr(*arguments)
        assert result.exit_code == 2
        assert "is an address, and this needs a local path" in result.stderr


def test_local_paths_bring_no_network_into_the_process(models):
    modules = imported_by("preflight", str(models / "org/qwen"))
    assert not {"http.client", "ssl", "socket", "urllib.request", "apr.storage.remote", "apr.cli.network"} & modules
