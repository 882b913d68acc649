#!/usr/bin/env bash
# Makes docs/pictures: a frame of a real clip before and after each filter, side by side.
set -euo pipefail
bin=$1 clips=$2 out=docs/pictures
mkdir -p $out
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
source=$clips/bigbuckbunny.mp4
ffmpeg -v error -y -ss 2 -i "$source" -frames:v 1 -vf scale=480:-2 "$scratch/before.png"
"$bin" filters | awk '/^[a-z]/ {print $1}' | while read -r name; do
    # Frames that go to somebody's own functions have no picture.
    [ "$name" != celery ] || continue
    example=$("$bin" filters "$name" </dev/null | sed -n 's/^  -f //p')
    "$bin" run "$source" -o "$scratch/after.mkv" --codec ffv1 --to 3 -f "$example" --overwrite --quiet </dev/null
    ffmpeg -v error -y -nostdin -ss 2 -i "$scratch/after.mkv" -frames:v 1 -vf "scale=480:270:force_original_aspect_ratio=decrease,pad=480:270:(ow-iw)/2:(oh-ih)/2" "$scratch/after.png"
    ffmpeg -v error -y -nostdin -i "$scratch/before.png" -i "$scratch/after.png" -filter_complex hstack -q:v 4 "$out/$name.jpg"
done
