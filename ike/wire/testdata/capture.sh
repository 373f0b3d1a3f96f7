#!/bin/sh
# capture.sh OUT: two strongSwan daemons (charon-systemd with swanctl, iproute2, tcpdump and pki wanted) set tunnels
# up over a veth pair in namespaces of their own, in one scenario after another. OUT gets, for each, the datagrams as
# NAME.pcap and both daemons' logs, in which every IKE chain stands in clear (enc = 3). Run as root in a throwaway VM.
set -eu
out=$1
mkdir -p "$out"
dir=$(mktemp -d)

for n in a b; do ip netns add $n; ip -n $n link set lo up; done
ip link add va netns a type veth peer name vb netns b
ip -n a addr add 192.0.2.1/24 dev va; ip -n b addr add 192.0.2.2/24 dev vb
ip -n a addr add 10.1.0.1/24 dev lo; ip -n b addr add 10.2.0.1/24 dev lo
ip -n a link set va up; ip -n b link set vb up
ip -n a route add default via 192.0.2.2; ip -n b route add default via 192.0.2.1

pki --gen --type ecdsa --size 256 --outform pem >"$dir/ca.key"
pki --self --in "$dir/ca.key" --dn "C=CH, O=Example, CN=Root" --ca --outform pem >"$dir/ca.pem"
for n in a b; do
  pki --gen --type ecdsa --size 256 --outform pem >"$dir/$n.key"
  pki --pub --in "$dir/$n.key" | pki --issue --cacert "$dir/ca.pem" --cakey "$dir/ca.key" \
    --dn "C=CH, O=Example, CN=$n.example.org" --san $n.example.org --outform pem >"$dir/$n.pem"
done

# daemon NODE EXTRA: starts a charon in namespace NODE with the extra lines of strongswan.conf
daemon() {
  n=$1; d=$dir/$n; mkdir -p "$d/x509ca" "$d/x509" "$d/private"
  cp "$dir/ca.pem" "$d/x509ca/"; cp "$dir/$n.pem" "$d/x509/"; cp "$dir/$n.key" "$d/private/"
  cat >"$d/strongswan.conf" <<C
charon-systemd {
  plugins { include /etc/strongswan.d/charon/*.conf
            vici { socket = unix://$d/vici } }
  filelog { f { path = $d/log
                default = 0
                enc = 3
                ike = 1
                flush_line = yes } }
  $2
}
swanctl { load = pem pkcs1 pkcs8 x509 pubkey openssl random nonce }
C
  STRONGSWAN_CONF=$d/strongswan.conf ip netns exec $n charon-systemd >"$d/out" 2>&1 &
  echo $! >"$d/pid"
  for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do [ -S "$d/vici" ] && return; sleep 0.3; done
  cat "$d/out" >&2; return 1
}

ctl() { n=$1; shift; SWANCTL_DIR=$dir/$n STRONGSWAN_CONF=$dir/$n/strongswan.conf swanctl "$@" --uri "unix://$dir/$n/vici"; }

# scenario NAME EXTRA CONN-A CONN-B PROPOSALS-A PROPOSALS-B ESP CHILD STEPS
scenario() {
  name=$1
  daemon a "$2"; daemon b "$2"
  for n in a b; do
    if [ $n = a ]; then o=b; here=192.0.2.1 there=192.0.2.2 hn=10.1.0.0/24 tn=10.2.0.0/24 conn=$3 prop=$5
    else o=a; here=192.0.2.2 there=192.0.2.1 hn=10.2.0.0/24 tn=10.1.0.0/24 conn=$4 prop=$6; fi
    cat >"$dir/$n/swanctl.conf" <<C
connections { t { version = 2
  local_addrs = $here
  remote_addrs = $there
  proposals = $prop
  mobike = ${mobike:-yes}
  $(echo "$conn" | sed "s/@L/$n/g; s/@R/$o/g")
  children { c { local_ts = ${lts:-$hn}
    remote_ts = ${rts:-$tn}
    esp_proposals = $7
    $8
  } }
} }
secrets { ike { secret = "a secret of the test" }
  eap { id = carol
    secret = "a password of the test" } }
pools { p { addrs = 10.3.0.0/24
  dns = 10.2.0.53 } }
C
    ctl $n --load-all >"$dir/$n/load" 2>&1 || cat "$dir/$n/load" >&2
  done
  ip netns exec b tcpdump -q -U -i vb -w "$out/$name.pcap" 'udp port 500 or udp port 4500' 2>/dev/null &
  dump=$!
  sleep 1.5
  for step in $9; do
    case $step in
      up) timeout 15 sh -c "SWANCTL_DIR=$dir/a STRONGSWAN_CONF=$dir/a/strongswan.conf swanctl --initiate --child c --timeout 10 --uri unix://$dir/a/vici" >/dev/null || echo "$name: not up" ;;
      rekey-child) ctl a --rekey --child c >/dev/null ;;
      rekey-ike) ctl b --rekey --ike t >/dev/null ;;
      down-child) ctl b --terminate --child c --timeout 5 >/dev/null ;;
      down) ctl a --terminate --ike t --timeout 5 >/dev/null ;;
    esac
    sleep 1
  done
  kill $dump $(cat "$dir/a/pid") $(cat "$dir/b/pid")
  wait $dump || true
  for n in a b; do
    wait $(cat "$dir/$n/pid") || true
    cp "$dir/$n/log" "$out/$name.$n.log"; rm -rf "${dir:?}/$n"
  done
}

psk='local { auth = psk
  id = @L.example.org }
  remote { auth = psk
  id = @R.example.org }'
cert='send_cert = always
  local { auth = pubkey
  certs = @L.pem
  id = @L.example.org }
  remote { auth = pubkey
  id = @R.example.org }'
carol='vips = 0.0.0.0,::
  local { auth = eap-mschapv2
  id = carol
  eap_id = carol }
  remote { auth = pubkey
  id = @R.example.org }'
eap='pools = p
  send_cert = always
  local { auth = pubkey
  certs = @L.pem
  id = @L.example.org }
  remote { auth = eap-mschapv2
  eap_id = %any }'

scenario psk '' "$psk" "$psk" aes256gcm16-prfsha256-x25519 aes256gcm16-prfsha256-x25519 aes256gcm16-x25519-esn '' \
  'up rekey-child rekey-ike down-child down'
lts=dynamic rts=dynamic scenario classic '' "$psk" "$psk" aes256-sha256-modp2048,aes128-sha256-modp3072,default aes256-sha256-modp2048 \
  aes256gcm16-modp2048,default 'mode = transport' 'up down'
scenario cert 'fragment_size = 512' "$cert" "$cert" aes128gcm16-prfsha256-ecp256 aes128gcm16-prfsha256-ecp256 aes128gcm16 \
  'ipcomp = yes' 'up down'
scenario retry '' "$psk" "$psk" aes256-sha256-x25519-ecp256 aes256-sha256-ecp256 aes256-sha256 '' 'up down'
scenario refused '' "$psk" "$psk" aes256-sha256-x25519 aes128-sha1-modp2048 aes256-sha256 '' 'up'
scenario intermediate '' "$psk" "$psk" aes256-sha256-x25519-ke1_ecp384 aes256-sha256-x25519-ke1_ecp384 \
  aes256-sha256-x25519-ke1_ecp384 '' 'up rekey-child down'
scenario eap "" "$carol" "$eap" aes256-sha256-x25519 aes256-sha256-x25519 aes256-sha256 "" "up down"
