#!/bin/sh
# Usage: sudo raspberry_pi.sh [--no-i2c]
#
# Set a fresh Raspberry Pi OS up for measuring: governor `performance` (kept over restarts), I2C for
# a current sensor (unless --no-i2c), and the runtime for the user who called sudo.
# May be run again at any time: what is as it should be is left alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${EDGEPRUNE_ROOT:-} # tests give a copy of the files
i2c=yes
case ${1:-} in
'') ;;
--no-i2c) i2c=no ;;
*)
    echo "Usage: sudo raspberry_pi.sh [--no-i2c]" >&2
    exit 2
    ;;
esac
if [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "run it with sudo: the governor and I2C belong to root" >&2
    exit 1
fi

# Write standard input into a file, if it says something else now.
write_file() {
    new=$(cat)
    if [ "$(cat "$1" 2>/dev/null)" = "$new" ]; then
        return 1
    fi
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$new" >"$1"
}

# The clock: else the first milliseconds of every series are slow ones.
for governor in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
    [ -w "$governor" ] || continue
    [ "$(cat "$governor")" = performance ] || echo performance >"$governor"
done
if write_file "$root/etc/systemd/system/edgeprune-governor.service" <<'UNIT'; then
[Unit]
Description=CPU governor performance, for measuring

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do echo performance > $f; done'

[Install]
WantedBy=multi-user.target
UNIT
    echo "governor: performance, also after a restart"
    if [ -z "$root" ]; then
        systemctl daemon-reload
        systemctl --quiet enable edgeprune-governor.service
    fi
fi

# I2C, at the speed that an INA2xx takes. Bookworm moved the file.
if [ "$i2c" = yes ]; then
    settings=$root/boot/firmware/config.txt
    [ -f "$settings" ] || settings=$root/boot/config.txt
    if [ ! -f "$settings" ]; then
        echo "no config.txt: this is no Raspberry Pi OS; I2C is left alone" >&2
    elif ! grep -q '^dtparam=i2c_arm=on' "$settings"; then
        printf 'dtparam=i2c_arm=on,i2c_arm_baudrate=400000\n' >>"$settings"
        echo "I2C: on after the next restart. Then tell the kernel of the sensor, for example:"
        echo "    echo ina226 0x40 | sudo tee /sys/bus/i2c/devices/i2c-1/new_device"
    fi
fi

user=${SUDO_USER:-$(id -un)}
if [ -z "$root" ] && [ "$user" != root ]; then
    su "$user" -c "sh '$here/runtime.sh'"
else
    sh "$here/runtime.sh"
fi
