"""The words that embedded passages are made of."""

from __future__ import annotations

from dataclasses import dataclass


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

SENTENCES: tuple[str, ...] = (
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
ITEMS: tuple[str, ...] = (
    "{paper}",
    "{person}, where {fact}",
    "{scheme}, up to £{amount} a {period}",
    "{act} before {date}",
    "{paper} dated after {date}",
    "how to {act}",
    "{paper} or {paper2}",
    "people for whom {fact}",
)
PLACES = (
    "Northvale", "the Westmere islands", "Harrowby", "Saltcombe", "the Upper Dales", "Kingsfold", "Port Arden",
    "Elmsea",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
PERIODS = ("week", "month", "quarter", "year")
