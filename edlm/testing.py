"""The contract of an energy as a test class, for the test suites of users."""

from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.function import FunctionDenoiser
from edlm.energies.base import Energy
from edlm.energies.contract import Trial, check_energy

_SIZE = 3  # symbols of the default denoiser, the mask after them


class EnergyContract:
    """Tests that every energy must pass; a class that inherits them, and makes an energy, is a test class of pytest.

    Each test is a check of `Energy.check`; one that cannot decide anything passes.

    Example:
        >>> from edlm import CallableEnergy
        >>> class TestNoRepeats(EnergyContract):
        ...     def make_energy(self):
        ...         return CallableEnergy(lambda x, *_: 2.0 * (x[..., 1:] == x[..., :-1]).sum(-1))
        >>> TestNoRepeats().test_batch()
    """

    def make_energy(self) -> Energy:
        """A new energy; the one method that must be given."""
        raise NotImplementedError(f"{type(self).__name__} must have a method make_energy, which makes an energy")

    def make_denoiser(self) -> Denoiser:
        """A denoiser that the energy suits; by default a function of 3 symbols, without states or a tokenizer."""

        def logits(x_t: Tensor, t: Tensor) -> Tensor:
            places = 1.0 + x_t.cumsum(1) % 7
            return (places[..., None] * places.new_tensor([0.3, 0.7, 1.1])).sin()

        return FunctionDenoiser(logits, mask_token_id=_SIZE, vocab_size=_SIZE)

    def make_data(self) -> Tensor | None:
        """Rows of real tokens ``[n, length]``, which it must prefer to shuffled ones; None leaves that out."""
        return None

    def _check(self, name: str) -> None:
        trial = Trial(self.make_energy().eval(), self.make_denoiser().eval(), self.make_data(), 5, 0)
        (verdict,) = check_energy(trial, [name]).verdicts
        assert verdict.passed is not False, verdict.text

    def test_denoiser(self) -> None:
        self._check("denoiser")

    def test_shape(self) -> None:
        self._check("shape")

    def test_values(self) -> None:
        self._check("values")

    def test_type(self) -> None:
        self._check("type")

    def test_repeated(self) -> None:
        self._check("repeated")

    def test_inputs(self) -> None:
        self._check("inputs")

    def test_batch(self) -> None:
        self._check("batch")

    def test_candidates(self) -> None:
        self._check("candidates")

    def test_normalized(self) -> None:
        self._check("normalized")

    def test_sign(self) -> None:
        self._check("sign")
