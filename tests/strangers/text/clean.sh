# Split messages into clean/train.tsv and clean/test.tsv, without comments and repetitions.
set -e
mkdir -p "$2"
grep -v '^#' "$1" | tr 'A-Z' 'a-z' | sort -u |
  awk -v folder="$2" '{ print > (folder (NR % 3 ? "/train.tsv" : "/test.tsv")) }'
wc -l "$2"/*.tsv
