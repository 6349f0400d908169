"""The same comparison with models that the reference libraries make on the spot.

Needs them: ``pip install -e ".[parity]"``.
"""

import pytest

pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")
pytest.importorskip("flamingo_pytorch", reason="needs flamingo-pytorch: pip install -e .[parity]")
pytest.importorskip("perceiver_pytorch", reason="needs perceiver-pytorch: pip install -e .[parity]")

from reference import write_case
from variants import VARIANTS

from scratch_vlm.parity.case import worst
from scratch_vlm.parity.run import run_case

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.mark.parametrize("name", VARIANTS)
def test_options_of_a_family_are_computed_as_the_reference_does(name, tmp_path):
    write_case(tmp_path / "case", VARIANTS[name])
    rows = run_case(tmp_path / "case")
    assert any(row.name.startswith("grad/") for row in rows)
    assert worst(rows) <= 1e-9, max(rows, key=lambda row: row.error)
    assert worst(run_case(tmp_path / "case", dtype="float32")) <= 1e-4
