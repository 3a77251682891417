#!/usr/bin/env bash
# README.md and docs/*.md: no line and no English sentence is too long, each link leads somewhere, and each Chinese page
# has the headings and the commands of its English one.
#   docs.sh           checks the pages of this repository
#   docs.sh --test    checks itself: pages with one fault each must be refused
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bad=0
complain() {
  echo "$*"
  bad=1
}

# The anchors of a page's headings, as GitHub makes them.
anchors_of() {
  awk '/^```/ { code = !code } !code && /^#+ /' "$1" | sed -E 's/^#+ +//; s/ +$//; s/\[([^]]*)\]\([^)]*\)/\1/g' |
    sed -E 's/[^[:alnum:] _-]//g; s/ /-/g; s/.*/\L&/' | awk '{ n = seen[$0]++; print $0 (n ? "-" n : "") }'
}

# Lines of at most 120 characters, or 60 Chinese ones, which are as wide. Tables cannot be broken; a picture's line
# neither.
check_lines() {
  local line
  while IFS= read -r line; do complain "$1:$line"; done < <(
    grep -nP '^(?!\||<img ).{121,}' "$1" | sed -E 's/^([0-9]+):.*/\1: longer than 120 columns/'
    grep -nP '^(?!\|)(\P{Han}*+\p{Han}){61}' "$1" | sed -E 's/^([0-9]+):.*/\1: more than 60 Chinese characters/')
}

# English sentences of at most 25 words. A word is what stands between spaces and has a letter or a digit; code in
# backquotes is one word. A sentence ends with its paragraph or list item, or at a full stop, question mark or
# exclamation mark before a space: an abbreviation may hide a long sentence, but no short one is reported. Code, tables,
# headings and what a program writes between <!-- name --> and <!-- /name --> are no prose.
check_sentences() {
  local line
  while IFS= read -r line; do complain "$1:$line"; done < <(awk '
    function finish_paragraph(  count, sentences, words, i, j, found) {
      gsub(/`[^`]*`/, "`code`", text)
      gsub(/[.!?]+[])"*]* /, "&\n", text)
      count = split(text, sentences, "\n")
      for (i = 1; i <= count; ++i) {
        found = 0
        for (j = split(sentences[i], words, " "); j > 0; --j) found += words[j] ~ /[A-Za-z0-9]/
        if (found > 25) print start ": a sentence of " found " words, more than 25: " sentences[i]
      }
      text = ""
    }
    /^<!-- [a-z_]+ -->$/ { finish_paragraph(); written = 1 }
    /^<!-- \/[a-z_]+ -->$/ { written = 0 }
    /^ *```/ { finish_paragraph(); code = !code; next }
    written || code { next }
    /^ *$/ || /^ *\|/ || /^#/ || /^</ { finish_paragraph(); next }
    /^    / && text == "" { next }
    /^ *([-*]|[0-9]+\.) / { finish_paragraph(); sub(/^ *[^ ]+ /, "") }
    { if (text == "") start = NR; else text = text " "; sub(/^ +/, ""); text = text $0 }
    END { finish_paragraph() }' "$1")
}

check_links() {
  local page=$1 link file anchor target
  while IFS= read -r link; do
    [[ $link =~ ^(https?:|mailto:) ]] && continue
    file=${link%%#*} anchor=
    [[ $link != *#* ]] || anchor=${link#*#}
    target=$page
    [[ -z $file ]] || target=$(dirname "$page")/$file
    [[ -e $target ]] || { complain "$page: no file for the link $link"; continue; }
    [[ -z $anchor ]] || grep -qxF -- "$anchor" <<<"$(anchors_of "$target")" || complain "$page: no heading for the link $link"
  done < <(awk '/^```/ { code = !code } !code && !/^    /' "$page" | sed -E 's/`[^`]*`//g' |
    grep -oP '\]\(\K[^)\s]+(?=\))|src="\K[^"]+' || true)
}

levels_of() { awk '/^```/ { code = !code } !code && /^#+ / { print length($1) }' "$1"; }
# Fenced and indented blocks, in order.
commands_of() { awk '/^```/ { code = !code; print "```"; next } code || /^    [^ ]/' "$1"; }

# A page and its Chinese one.
check_pair() {
  local english=$1 chinese=$2
  [[ -e $chinese ]] || { complain "$chinese is not there"; return; }
  diff <(levels_of "$english") <(levels_of "$chinese") >/dev/null ||
    complain "$chinese: other headings than $english: $(levels_of "$english" | wc -l) and $(levels_of "$chinese" | wc -l)"
  diff <(commands_of "$english") <(commands_of "$chinese") ||
    complain "$chinese: other commands than $english (above: < English, > Chinese)"
}

check_folder() {
  local page
  for page in README.md docs/*.md; do
    check_lines "$page"
    [[ $page == *.zh-CN.md ]] || check_sentences "$page"
    check_links "$page"
  done
  check_pair README.md docs/README.zh-CN.md
  check_pair docs/guide.md docs/guide.zh-CN.md
  check_pair docs/first-adapter.md docs/first-adapter.zh-CN.md
}

# A folder of short pages that are in order; then each with one fault.
test_itself() {
  local folder page failed=0
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT
  cd "$folder"
  good() {
    rm -rf docs
    mkdir docs
    printf '# One\n[x](docs/guide.md#two-parts)\n## Two\n    run --it\n' >README.md
    printf '# 一\n## 二\n    run --it\n' >docs/README.zh-CN.md
    for page in guide first-adapter; do
      printf '# A\n## Two parts\n```sh\nls\n```\n' >docs/$page.md
      printf '# 甲\n## 乙\n```sh\nls\n```\n' >docs/$page.zh-CN.md
    done
  }
  expect() {  # what it says of the folder as it is
    bad=0
    local said
    said=$(check_folder; exit $bad) && bad=0 || bad=1
    [[ $bad == "$1" && $said == *"${2:-}"* ]] || { echo "docs.sh --test: expected $1 '${2:-}', got $bad '$said'"; failed=1; }
    good
  }
  good
  expect 0
  printf '%0130d\n' 0 >>README.md; expect 1 'longer than 120'
  printf '|%0130d|\n' 0 >>README.md; expect 0
  printf '字%.0s' {1..61} >>docs/guide.zh-CN.md; expect 1 'more than 60'
  printf 'x字%.0s' {1..58} >>docs/guide.zh-CN.md; expect 0
  { printf 'x字%.0s' {1..58}; echo; printf '字%.0s' {1..61}; } >>docs/guide.zh-CN.md
  expect 1 'guide.zh-CN.md:7: more than 60'
  twenty='a b c d e f g h i j k l m n o p q r s t'
  echo "$twenty u v w x y." >>README.md; expect 0
  echo "$twenty u v w x y z." >>README.md; expect 1 'README.md:5: a sentence of 26 words'
  printf '%s\n' "$twenty" 'u [v](README.md) w **x** y; z?' >docs/new.md
  expect 1 'docs/new.md:1: a sentence of 26 words'
  printf '%s\n' "- Yes. $twenty:" "- $twenty u: v" '  w x y, z' >docs/new.md
  expect 1 'docs/new.md:2: a sentence of 26 words'
  printf '%s\n' "$twenty (u.) **v w x y?**" "$twenty \"z z!\" $twenty" >docs/new.md; expect 0
  printf '%s\n' "$twenty." "$twenty" '' "$twenty" "1. $twenty" "# $twenty" "$twenty" >docs/new.md; expect 0
  echo "$twenty \`u v w x y z\` = (-1) · + — ;" >docs/new.md; expect 0
  printf '%s\n' '```sh' "$twenty $twenty" '```' "    $twenty $twenty" "  | $twenty | $twenty |" >docs/new.md; expect 0
  printf '%s\n' '<!-- new -->' "$twenty $twenty" '<!-- /new -->' >docs/new.md; expect 0
  printf '%s\n' '<!-- new -->' '<!-- /new -->' "$twenty $twenty" >docs/new.md
  expect 1 'docs/new.md:3: a sentence of 40 words'
  echo "$twenty $twenty" >>docs/guide.zh-CN.md; expect 0
  echo '[x](docs/none.md)' >>README.md; expect 1 'no file for the link docs/none.md'
  echo '[x](#none)' >>README.md; expect 1 'no heading for the link #none'
  echo '[x](guide.zh-CN.md#乙)' >>docs/README.zh-CN.md; expect 0
  echo '## More' >>docs/guide.md; expect 1 'other headings'
  echo '    run --that' >>README.md; expect 1 'other commands'
  rm docs/first-adapter.zh-CN.md; expect 1 'is not there'
  bad=$failed
}

case ${1:-} in
  '') cd "$here/.." && check_folder ;;
  --test) test_itself ;;
  *) echo "docs.sh: unknown argument $1" >&2; exit 2 ;;
esac
((bad == 0)) && echo "docs: in order"
exit "$bad"
