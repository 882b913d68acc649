#!/usr/bin/env bash
# Makes docs/pictures: a frame of a real clip before and after each filter, side by side.
set -euo pipefail
bin=$1 clips=$2 out=docs/pictures
mkdir -p $out
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fit="scale=480:270:force_original_aspect_ratio=decrease,pad=480:270:(ow-iw)/2:(oh-ih)/2"
frame() { # a frame of a clip
    ffmpeg -v error -y -nostdin -ss 2 -i "$1" -frames:v 1 -vf "$fit" "$2"
}
"$bin" filters | awk '/^[a-z]/ {print $1}' | while read -r name; do
    case "$name" in
        # Frames that go to somebody's own functions have no picture, nor have boxes that somebody drew.
        celery | regions) continue ;;
        faces) source=$clips/carphone_pristine.mp4 ;;
        objects | motion) source=$clips/vtest.avi ;;
        *) source=$clips/bigbuckbunny.mp4 ;;
    esac
    frame "$source" "$scratch/before.png"
    example=$("$bin" filters "$name" </dev/null | sed -n 's/^  -f //p')
    "$bin" run "$source" -o "$scratch/after.mkv" --codec ffv1 --to 3 -f "$example" --overwrite --quiet </dev/null
    frame "$scratch/after.mkv" "$scratch/after.png"
    ffmpeg -v error -y -nostdin -i "$scratch/before.png" -i "$scratch/after.png" -filter_complex hstack -q:v 4 "$out/$name.jpg"
done
