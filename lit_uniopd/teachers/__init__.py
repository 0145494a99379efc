"""Teachers, in each of the places where they can live: this process, a cache on disk, a server, the student itself."""

from lit_uniopd.teachers.args import HttpArgs, Placement, TeacherArgs, Teachers
from lit_uniopd.teachers.base import Scored, Teacher, TeacherPass, TopLogps, encode_each
from lit_uniopd.teachers.cached import CachedTeacher
from lit_uniopd.teachers.local import LocalTeacher
from lit_uniopd.teachers.reading import DrawArgs, ReadsArgs, WorkedExample
from lit_uniopd.teachers.remote import RemoteTeacher
from lit_uniopd.teachers.self_teacher import SelfTeacher
from lit_uniopd.teachers.student_average import StudentAverage
from lit_uniopd.teachers.tokenizer_match import foreign_ids

__all__ = [
    "CachedTeacher",
    "DrawArgs",
    "HttpArgs",
    "LocalTeacher",
    "Placement",
    "ReadsArgs",
    "RemoteTeacher",
    "Scored",
    "SelfTeacher",
    "StudentAverage",
    "Teacher",
    "TeacherArgs",
    "TeacherPass",
    "Teachers",
    "TopLogps",
    "WorkedExample",
    "encode_each",
    "foreign_ids",
]
