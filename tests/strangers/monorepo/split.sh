# Write the readings of each station to a file of its own.
mkdir -p "$2"
tail -n +2 "$1" | awk -F, -v folder="$2" '{ print $2 "," $3 > (folder "/" $1 ".csv") }'
