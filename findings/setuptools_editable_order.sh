#!/bin/sh
# Pinned: setuptools==84.2.1
# An editable install may come after every folder of sys.path.
#
# Guess: an editable install stands where the installed package would stand, among the site packages, so that a
# folder appended to sys.path, which comes last, cannot hide it. With a package-dir mapping setuptools installs an
# import finder in place of a path, and the finder is asked after all of sys.path: the appended folder's package of
# the same name wins over the editable install, not over the regular one.
#
# Seen:
#     setuptools 84.2.1
#     regular install, imported from:  the installed package
#     editable install, expected from: the installed package
#     editable install, imported from: the folder appended to sys.path
#     as recorded
set -eu
VERSION=${VERSION:-84.2.1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' HUP INT TERM
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv venv || exit 2
mkdir -p project/source/alpha folder/alpha
echo 'FROM = "the installed package"' >project/source/alpha/__init__.py
echo 'FROM = "the folder appended to sys.path"' >folder/alpha/__init__.py
cat >project/pyproject.toml <<END
[build-system]
requires = ["setuptools==$VERSION"]
build-backend = "setuptools.build_meta"
[project]
name = "alpha-of-findings"
version = "1"
[tool.setuptools]
packages = ["alpha"]
package-dir = {alpha = "source/alpha"}
END
installed() {
    venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" >&2 || exit 2
    venv/bin/python -I -c 'import sys; sys.path.append("folder"); import alpha; print(alpha.FROM)'
    venv/bin/python -m pip uninstall --quiet --yes alpha-of-findings >&2
}
regular=$(installed ./project)
editable=$(installed --editable ./project)
echo "setuptools $VERSION"
echo "regular install, imported from:  $regular"
echo "editable install, expected from: the installed package"
echo "editable install, imported from: $editable"
if [ "$regular" = "the installed package" ] && [ "$editable" = "the folder appended to sys.path" ]; then
    echo "as recorded"
else
    echo "CHANGED"
    exit 1
fi
