"""IDX and CIFAR files written here by struct, read back, cut short at every kind of place."""

from __future__ import annotations

import gzip
import random
import struct

import numpy as np
import pytest
import torch

from odenet.data import cifar_folder, idx_folder, read_idx
from odenet.errors import BadInput

CODES = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}


def idx_bytes(code: int, shape: tuple[int, ...], values: list) -> bytes:
    header = struct.pack(">BBBB", 0, 0, code, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    return header + struct.pack(f">{len(values)}{CODES[code]}", *values)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_read_idx_returns_what_was_written(tmp_path, code, packed):
    values = list(range(24))
    content = idx_bytes(code, (2, 3, 4), values)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    expected = torch.tensor(values).reshape(2, 3, 4)
    result = read_idx(path)
    assert result.shape == (2, 3, 4) and torch.equal(result.long(), expected)
    assert result.element_size() == struct.calcsize(CODES[code])


def test_every_truncation_of_an_idx_file_is_refused(tmp_path):
    content = idx_bytes(0x0B, (3, 5), list(range(15)))
    path = tmp_path / "file"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BadInput):
            read_idx(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(BadInput, match="takes 42"):
        read_idx(path)


def test_every_truncation_of_a_gzip_file_is_refused(tmp_path):
    content = gzip.compress(idx_bytes(0x08, (4, 4), list(range(16))))
    path = tmp_path / "file.gz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(BadInput):
            read_idx(path)


def test_flipped_header_bytes_never_give_anything_but_a_tensor_or_bad_input(tmp_path):
    """A header may claim 2^32 rows of 2^32: nothing of that size is ever allocated."""
    rng = random.Random(0)
    content = bytearray(idx_bytes(0x08, (4, 4), list(range(16))))
    path = tmp_path / "file"
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            broken[rng.randrange(12)] = rng.randrange(256)
        path.write_bytes(bytes(broken))
        try:
            assert read_idx(path).numel() <= 16
        except BadInput:
            refused += 1
    assert refused > 250


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="nothing is downloaded"):
        read_idx(tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadInput, match="starts with 68 65 6c 6c"):
        read_idx(tmp_path / "text")


def write_mnist(folder, n=60, test=10, end="", pack=lambda b: b):
    rng = np.random.default_rng(0)
    truth = {}
    for part, count in (("train", n), ("t10k", test)):
        images = rng.integers(0, 256, (count, 4, 3))
        labels = np.arange(count) % 5
        content = idx_bytes(0x08, images.shape, images.ravel().tolist())
        (folder / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(content))
        (folder / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx_bytes(0x08, (count,), labels.tolist())))
        truth[part] = images, labels
    return truth


@pytest.mark.parametrize("end, pack", [("", lambda b: b), (".gz", gzip.compress)])
def test_an_mnist_folder_becomes_a_data_set(tmp_path, end, pack):
    truth = write_mnist(tmp_path, end=end, pack=pack)
    d = idx_folder(tmp_path)
    assert d.image == (1, 4, 3) and d.classes == 5 and (len(d.x), len(d.x_val), len(d.x_test)) == (50, 10, 10)
    images, labels = truth["t10k"]
    torch.testing.assert_close(d.x_test, torch.tensor(images.reshape(10, 12) / 255, dtype=torch.float32))
    assert d.y_test.tolist() == labels.tolist()
    rows = {
        (*np.rint(x.numpy() * 255).astype(int), int(y))
        for x, y in zip(torch.cat([d.x, d.x_val]), torch.cat([d.y, d.y_val]))
    }
    images, labels = truth["train"]
    assert rows == {(*image.ravel(), int(label)) for image, label in zip(images, labels)}


def test_mnist_files_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no folder"):
        idx_folder(tmp_path / "absent")
    with pytest.raises(BadInput, match="has none of train-images-idx3-ubyte"):
        idx_folder(tmp_path)
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(0x08, (2,), [0, 1]))
    with pytest.raises(BadInput, match="do not belong together"):
        idx_folder(tmp_path)


def cifar_records(n, label_bytes, classes, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (n, label_bytes + 3072)).astype(np.uint8)
    table[:, label_bytes - 1] = np.arange(n) % classes
    if label_bytes == 2:
        table[:, 0] = table[:, 1] // 5
    return table


@pytest.fixture
def cifar10(tmp_path):
    tables = [cifar_records(40, 1, 10, k) for k in range(6)]
    for k, table in enumerate(tables):
        name = f"data_batch_{k + 1}.bin" if k < 5 else "test_batch.bin"
        (tmp_path / name).write_bytes(table.tobytes())
    return tmp_path, tables


def test_a_cifar10_folder_becomes_a_data_set(cifar10):
    folder, tables = cifar10
    d = cifar_folder(folder)
    assert d.name == "cifar10" and d.image == (3, 32, 32) and d.classes == 10
    assert (len(d.x), len(d.x_val), len(d.x_test)) == (180, 20, 40)
    assert torch.bincount(d.y_val).tolist() == [2] * 10
    torch.testing.assert_close(d.x_test, torch.tensor(tables[5][:, 1:] / 255, dtype=torch.float32))
    assert d.y_test.tolist() == tables[5][:, 0].tolist()
    seen = np.rint(torch.cat([d.x, d.x_val]).numpy() * 255).astype(np.uint8)
    assert {r.tobytes() for r in seen} == {r[1:].tobytes() for t in tables[:5] for r in t}


@pytest.mark.parametrize("labels, classes", [("fine", 100), ("coarse", 20)])
def test_a_cifar100_folder_has_fine_and_coarse_labels(tmp_path, labels, classes):
    (tmp_path / "train.bin").write_bytes(cifar_records(1000, 2, 100, 0).tobytes())
    table = cifar_records(100, 2, 100, 1)
    (tmp_path / "test.bin").write_bytes(table.tobytes())
    d = cifar_folder(tmp_path, labels=labels)
    assert d.name == "cifar100" and d.classes == classes
    assert d.y_test.tolist() == table[:, 1 if labels == "fine" else 0].tolist()
    torch.testing.assert_close(d.x_test, torch.tensor(table[:, 2:] / 255, dtype=torch.float32))


def test_damaged_cifar_files_are_refused(cifar10):
    folder, _ = cifar10
    path = folder / "data_batch_3.bin"
    content = path.read_bytes()
    rng = random.Random(0)
    for length in [0, 1, 3072, 3074, len(content) - 1, *(rng.randrange(len(content)) for _ in range(20))]:
        assert length % 3073 or length == 0
        path.write_bytes(content[:length])
        with pytest.raises(BadInput, match="data_batch_3"):
            cifar_folder(folder)
    path.write_bytes(b"\x0a" + content[1:])
    with pytest.raises(BadInput, match="label 10, above 9"):
        cifar_folder(folder)
    path.unlink()
    with pytest.raises(BadInput, match="no file"):
        cifar_folder(folder)
    with pytest.raises(BadInput, match='"fine" or "coarse"'):
        cifar_folder(folder, labels="both")
