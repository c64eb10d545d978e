# What a real DTK's env.sh is for: root's login shell reads it, and nothing else does.
export ROCM_PATH=/opt/dtk-24.04.1
export PATH=$ROCM_PATH/bin:$PATH
