"""What only the operator can decide: it is asked for in a file, and never guessed.

The file is a JSON object. Its keys name what is asked about; each value has the ``question``, and the
``answer``, which is null until the operator writes it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platform_db import errors
from platform_db.integrations.reana.source import Source

LEAVE_OUT = "leave out"

_EMAIL = re.compile(r"[^\s\x00-\x1f\x7f]+")


@dataclass
class Decisions:
    """The questions that a source has, and the answers so far.

    :param answers: by what is asked about, such as ``user ID`` or ``workflow ID``.
    """

    answers: dict[str, str] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str | None] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None) -> Decisions:
        """Return the answers in a file; it need not be there yet.

        :raises errors.WrongUsage: it is none that was written by this command.
        """
        if file is None or not file.exists():
            return cls()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            answers = {about: entry["answer"] for about, entry in content.items()}
        except (ValueError, AttributeError, TypeError, KeyError):
            raise errors.WrongUsage(
                f"{file} holds no decisions", hint="give the file that this command wrote, or a new one"
            ) from None
        return cls({about: str(answer).strip() for about, answer in answers.items() if answer is not None})

    def ask(self, source: Source) -> None:
        """Look for what is to be decided, and take the answers that there are."""
        self._ask_emails(source)
        self._ask_owners(source)

    def _ask_emails(self, source: Source) -> None:
        rows = source.rows(_EMAILS)
        known = {str(row.id_): row for row in rows}
        for id_, row in known.items():
            answer = self.answers.get(f"user {id_}")
            if answer is not None:
                self.emails[id_] = answer
            self.asked[f"user {id_}"] = (
                f"The e-mail address {row.email!r} is empty, cannot be shown, or differs in case only from"
                " that of another user. Which address is this user to have?"
            )
        addresses = [self.emails.get(id_, "").lower() for id_ in known]
        for id_ in known:
            address = self.emails.get(id_, "")
            taken = address and source.rows(_TAKEN, email=address.lower(), known=list(known))
            if not _EMAIL.fullmatch(address) or addresses.count(address.lower()) > 1 or taken:
                self.open[f"user {id_}"] = self.asked[f"user {id_}"]

    def _ask_owners(self, source: Source) -> None:
        for row in source.stream(_OWNERLESS):
            about = f"workflow {row.id_}"
            self.asked[about] = (
                f"Run {row.name!r} {row.major}, created {row.created}, has no owner. Whose is it? A user's id"
                f' or e-mail address, or "{LEAVE_OUT}".'
            )
            answer = self.answers.get(about)
            if answer == LEAVE_OUT:
                self.owners[str(row.id_)] = None
            elif answer and (users := source.rows(_USER, answer=answer)) and len(users) == 1:
                self.owners[str(row.id_)] = str(users[0].id_)
            else:
                self.open[about] = self.asked[about]

    def write(self, file: Path) -> None:
        """Write all questions with the answers so far."""
        content: dict[str, Any] = {
            about: {"question": question, "answer": None if about in self.open else self.answers[about]}
            for about, question in self.asked.items()
        }
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def require(self, file: Path | None) -> None:
        """Refuse to go on while a question is open; write them to the file.

        :raises errors.Refused: says where the questions are.
        """
        if not self.open:
            return
        count = f"{len(self.open)} question{'s' if len(self.open) > 1 else ''}"
        if file is None:
            raise errors.Refused(
                f"there is an answer missing to {count}, as: {next(iter(self.open.values()))}",
                hint="give --decisions FILE: the questions are written there",
            )
        self.write(file)
        raise errors.Refused(
            f"{count} wait{'s' if len(self.open) == 1 else ''} in {file}",
            hint="write the answers there, and run this again",
        )


_EMAILS = """
    SELECT id_, email FROM (
        SELECT id_, email, created, count(*) OVER (PARTITION BY lower(email)) AS twins FROM __reana.user_
    ) AS u
    WHERE twins > 1 OR email = '' OR email ~ '[[:cntrl:]]' ORDER BY lower(email), created, id_
"""

_TAKEN = """
    SELECT FROM __reana.user_ WHERE lower(email) = %(email)s AND NOT id_ = ANY(%(known)s::uuid[])
"""

_OWNERLESS = """
    SELECT id_, name, run_number_major AS major, created FROM __reana.workflow
    WHERE owner_id IS NULL ORDER BY created, id_
"""

_USER = "SELECT id_ FROM __reana.user_ WHERE id_::text = %(answer)s OR email = %(answer)s"
