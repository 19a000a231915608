// Job DSL, beside its Jenkinsfile in the seed job's workspace.
pipelineJob('cleanup-scheduler') {
    description('Starts the cleaning of every long-lived node that is due, and follows it. Red: a node needs a person.')
    logRotator {
        numToKeep(200)
    }
    properties {
        disableConcurrentBuilds()
        pipelineTriggers {
            triggers {
                cron {
                    spec('H/5 * * * *')
                }
            }
        }
    }
    definition {
        cps {
            script(readFileFromWorkspace('cleanup-scheduler/Jenkinsfile'))
            sandbox()
        }
    }
}
